"""The main job: one lease for the run, and a caller that knows its URL reaches the right app."""

import pytest

from .conftest import CountingBackend, RuntimeDirectory

pytestmark = pytest.mark.acceptance

WAYS = {
    "plain": [],
    "n0": ["-n", "0"],
    "n1": ["-n", "1"],
    "n4": ["-n", "4"],
    "loadfile": ["-n", "2", "--dist", "loadfile"],
    "loadscope": ["-n", "2", "--dist", "loadscope"],
    "loadgroup": ["-n", "2", "--dist", "loadgroup"],
    "worksteal": ["-n", "2", "--dist", "worksteal"],
    "no_xdist": ["-p", "no:xdist"],
}


@pytest.mark.parametrize("arguments", WAYS.values(), ids=WAYS)
def test_each_worker_reaches_its_own_app_over_one_lease(
    suite: pytest.Pytester, runtime: RuntimeDirectory, arguments: list[str]
) -> None:
    result = suite.runpytest_subprocess("-v", *arguments)

    result.assert_outcomes(passed=12)
    result.stdout.fnmatch_lines(["*= synth tunnels =*", "1 created, 1 released"])
    runtime.assert_nothing_left()


@pytest.mark.parametrize("arguments", [[], ["-n", "4"]], ids=["plain", "n4"])
def test_the_same_tests_on_a_hosted_backend(
    suite: pytest.Pytester,
    runtime: RuntimeDirectory,
    hosted: CountingBackend,
    arguments: list[str],
) -> None:
    result = suite.runpytest_subprocess(*arguments)

    result.assert_outcomes(passed=12)
    assert (hosted.creates, hosted.releases) == (1, 1)
    runtime.assert_nothing_left()


def test_a_lease_for_each_worker(suite: pytest.Pytester, hosted: CountingBackend) -> None:
    result = suite.runpytest_subprocess("-n", "2", "--dist", "each", "--synth-tunnels-share=worker")

    result.assert_outcomes(passed=24)
    assert (hosted.creates, hosted.releases) == (2, 2)


STYLE_HEADERS = {
    "root": """
            assert headers["host"] == headers["x-forwarded-host"]
            assert synth_lease.public_url == f"http://{headers['host']}"
            assert synth_lease.public_url != synth_lease.backend
            assert "x-forwarded-prefix" not in headers
    """,
    "path": """
            assert headers["host"] == f"127.0.0.1:{exposed_port}"
            relay = synth_lease.backend.removeprefix("http://")
            assert headers["x-forwarded-host"] == relay
            prefix = headers["x-forwarded-prefix"]
            assert synth_lease.public_url == f"http://{relay}{prefix}"
            assert prefix.endswith("/~gw0")
    """,
}


@pytest.mark.parametrize("style", STYLE_HEADERS)
def test_what_the_app_and_the_caller_see(suite: pytest.Pytester, style: str) -> None:
    suite.makepyfile(
        f"""
        from test_app import ask

        def test_headers(synth_lease, app, exposed_port):
            headers = {{k.lower(): v for k, v in ask(synth_lease)["headers"].items()}}
            {STYLE_HEADERS[style].strip()}
            assert headers["x-forwarded-proto"] == "http"
            assert headers["x-forwarded-for"] == "127.0.0.1"
            assert headers["x-synthtunnel-lease-id"] == synth_lease.lease_id
            assert headers["x-synthtunnel-request-id"]
            assert "x-synthtunnel-worker-token" not in headers

        def test_attributes(synth_lease, exposed_port, app):
            assert synth_lease.local_host == "127.0.0.1"
            assert synth_lease.local_port == exposed_port
            assert synth_lease.provider == "synthtunnel"
            assert synth_lease.expires_at.tzinfo is not None
            assert synth_lease.url("a?b=c") == synth_lease.url("/a?b=c")
            assert synth_lease.status()["state"] == "active"
            assert synth_lease.status()["connected"] is True
            assert synth_lease.worker_token not in repr(synth_lease) + repr(synth_lease.headers)
            synth_lease.wait_ready(5)
        """
    )

    result = suite.runpytest_subprocess(
        "-n", "1", "-k", "headers or attributes", f"--synth-tunnels-url-style={style}"
    )
    result.assert_outcomes(passed=2)


def test_first_use_through_getfixturevalue(
    suite: pytest.Pytester, runtime: RuntimeDirectory
) -> None:
    suite.makepyfile(
        test_late="""
        from test_app import ask

        def test_late(request):
            lease = request.getfixturevalue("synth_lease")
            request.getfixturevalue("app")
            assert ask(lease)["path"] == "/"
        """
    )

    suite.runpytest_subprocess("test_late.py").assert_outcomes(passed=1)
    runtime.assert_nothing_left()


def test_rotating_the_worker_token(suite: pytest.Pytester) -> None:
    suite.makepyfile(
        """
        from urllib.error import HTTPError
        from urllib.request import Request, urlopen

        import pytest
        from test_app import ask

        def test_rotation(synth_lease, app):
            old = dict(synth_lease.headers)
            new = synth_lease.refresh_worker_token()
            assert new not in old.values()
            assert new == synth_lease.worker_token
            assert ask(synth_lease)["path"] == "/"
            with pytest.raises(HTTPError) as caught:
                urlopen(Request(synth_lease.url(), headers=old), timeout=10)
            caught.value.close()
            assert caught.value.status == 401
        """
    )

    suite.runpytest_subprocess("-k", "rotation").assert_outcomes(passed=1)


def test_readiness(pytester: pytest.Pytester, runtime: RuntimeDirectory) -> None:
    pytester.makepyfile(
        """
        import asyncio

        import pytest
        from pytest_synth_tunnels import KeeperError

        def test_not_yet(synth_lease, exposed_port):
            with pytest.raises(KeeperError, match=f"127.0.0.1:{exposed_port}"):
                synth_lease.wait_ready(0.2)
            with pytest.raises(KeeperError, match=f"127.0.0.1:{exposed_port}"):
                asyncio.run(synth_lease.wait_ready_async(0.2))

        def test_now(synth_lease, exposed_socket):
            synth_lease.wait_ready(5)
            asyncio.run(synth_lease.wait_ready_async(5))

        def test_a_shared_lease_is_not_the_test_s_to_close(synth_lease):
            with pytest.raises(KeeperError, match="shared by all tests.*synth_expose"):
                synth_lease.close()
        """
    )

    pytester.runpytest_subprocess().assert_outcomes(passed=3)


def test_more_leases_for_a_test(suite: pytest.Pytester, hosted: CountingBackend) -> None:
    suite.makepyfile(
        """
        from urllib.error import HTTPError
        from urllib.request import urlopen

        import pytest
        from pytest_synth_tunnels import KeeperError
        from test_app import ask

        def test_expose(synth_expose, synth_lease, app, exposed_port):
            with synth_expose(exposed_port, name="another", ttl_s=120) as lease:
                assert lease.lease_id != synth_lease.lease_id
                assert ask(lease, "/x")["path"] == "/x"
                assert "~" not in lease.public_url
            with pytest.raises(KeeperError):
                lease.status()
            lease.close()

        def test_expose_a_url(synth_expose, app, exposed_port):
            lease = synth_expose(f"http://localhost:{exposed_port}")
            assert ask(lease)["headers"]["Host"] == f"localhost:{exposed_port}"

        @pytest.mark.parametrize(
            ("target", "kind"),
            [
                ("http://192.0.2.1:80", KeeperError),
                ("ftp://localhost", KeeperError),
                ("http://", KeeperError),
                (0, ValueError),
            ],
        )
        def test_refused(synth_expose, target, kind):
            with pytest.raises(kind):
                synth_expose(target)

        def test_unknown_provider(synth_expose):
            with pytest.raises(KeeperError, match="'carrier-pigeon'. Known are synthtunnel, "):
                synth_expose(80, provider="carrier-pigeon")
        """
    )

    result = suite.runpytest_subprocess("-k", "expose or refused or unknown")
    result.assert_outcomes(passed=7)
    # The run's lease, the one that the test closed, and the one that it left open.
    assert (hosted.creates, hosted.releases) == (3, 3)


def test_a_token_is_not_required_where_a_test_says_so(suite: pytest.Pytester) -> None:
    suite.makepyfile(
        """
        from urllib.request import urlopen

        def test_open(synth_expose, app, exposed_port):
            with synth_expose(exposed_port, require_token=False) as lease:
                assert (lease.worker_token, lease.headers) == ("", {})
                assert urlopen(lease.url(), timeout=10).status == 200
        """
    )

    suite.runpytest_subprocess("-k", "test_open").assert_outcomes(passed=1)


def test_hosted_mark(pytester: pytest.Pytester, runtime: RuntimeDirectory) -> None:
    pytester.makepyfile(
        """
        import pytest

        @pytest.mark.synth_hosted
        def test_hosted():
            pass
        """
    )

    result = pytester.runpytest_subprocess("-rs")

    result.assert_outcomes(skipped=1)
    result.stdout.fnmatch_lines(["*SKIPPED*no hosted Synth backend: set SYNTH_API_KEY*"])


@pytest.mark.parametrize("arguments", [[], ["-n", "2"]], ids=["plain", "n2"])
def test_a_hosted_backend_without_a_key(
    pytester: pytest.Pytester,
    runtime: RuntimeDirectory,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
) -> None:
    """As in the CI of a fork, which gets no secrets."""
    monkeypatch.delenv("SYNTH_API_KEY", raising=False)
    pytester.makeini("[pytest]\nsynth_tunnels_backend = hosted\n")
    pytester.makepyfile(
        """
        import pytest

        @pytest.mark.synth_hosted
        def test_hosted(synth_lease):
            pass

        @pytest.mark.parametrize("fixture", ["synth_lease", "exposed_port", "synth_tunnels"])
        def test_another(request, fixture):
            request.getfixturevalue(fixture)

        def test_without_a_tunnel():
            pass
        """
    )

    result = pytester.runpytest_subprocess("-rs", *arguments)

    result.assert_outcomes(passed=1, skipped=1, failed=3)
    cause = "synth_tunnels_backend in the ini file names the backend * $SYNTH_API_KEY is not set"
    result.stdout.fnmatch_lines([f"*SKIPPED*no hosted Synth backend: {cause}"])
    assert str(result.stdout).count("Set it; or use synth_tunnels_backend = auto") == 3
    runtime.assert_nothing_left()


def test_hosted_mark_with_a_backend(pytester: pytest.Pytester, hosted: CountingBackend) -> None:
    pytester.makepyfile(
        """
        import pytest

        @pytest.mark.synth_hosted
        def test_hosted(synth_settings):
            assert synth_settings.backend_url
        """
    )

    pytester.runpytest_subprocess().assert_outcomes(passed=1)
    assert hosted.calls == []

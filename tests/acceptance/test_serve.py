"""Applications that synth_serve serves in the test process, called through the tunnel."""

import os
import socket
from collections.abc import Iterator

import pytest

from .conftest import OTHER_PLUGINS, RuntimeDirectory

pytestmark = [pytest.mark.acceptance, pytest.mark.usefixtures("unmeasured")]

WAYS: list[list[str]] = [[], ["-n", "2"], ["-p", "no:xdist"]]
RUNS = pytest.mark.parametrize("arguments", WAYS, ids=["plain", "-n 2", "no xdist"])

CALL = '''
import json
from urllib.request import Request, urlopen

def call(lease, path="/", body=None):
    """Return what the app answers through the tunnel."""
    with urlopen(Request(lease.url(path), body, lease.headers), timeout=20) as answer:
        return answer.read().decode()
'''

SHOPS = {
    "flask": """
        import flask

        app = flask.Flask(__name__)
        paid = []

        @app.post("/hooks/paid")
        def hook():
            paid.append(flask.request.get_data(as_text=True))
            return "flask " + flask.request.path
    """,
    "fastapi": """
        from contextlib import asynccontextmanager

        import fastapi

        paid = []
        is_open = False

        @asynccontextmanager
        async def lifespan(app):
            global is_open
            is_open = True
            yield
            is_open = False

        app = fastapi.FastAPI(lifespan=lifespan)

        @app.post("/hooks/paid")
        async def hook(request: fastapi.Request):
            assert is_open
            paid.append((await request.body()).decode())
            return fastapi.Response("fastapi " + request.url.path)
    """,
    "django-wsgi": """
        import django
        from django.conf import settings
        from django.core.wsgi import get_wsgi_application
        from django.http import HttpResponse
        from django.urls import path
        from django.views.decorators.csrf import csrf_exempt

        settings.configure(ROOT_URLCONF=__name__, ALLOWED_HOSTS=["*"], SECRET_KEY="k")
        paid = []

        @csrf_exempt
        def hook(request):
            paid.append(request.body.decode())
            return HttpResponse("django-wsgi " + request.path)

        urlpatterns = [path("hooks/paid", hook)]
        app = get_wsgi_application()
    """,
    "django-asgi": """
        from django.conf import settings
        from django.core.asgi import get_asgi_application
        from django.http import HttpResponse
        from django.urls import path
        from django.views.decorators.csrf import csrf_exempt

        settings.configure(ROOT_URLCONF=__name__, ALLOWED_HOSTS=["*"], SECRET_KEY="k")
        paid = []

        @csrf_exempt
        async def hook(request):
            paid.append(request.body.decode())
            return HttpResponse("django-asgi " + request.path)

        urlpatterns = [path("hooks/paid", hook)]
        app = get_asgi_application()
    """,
}

TESTS = """
    import pytest

    import shop
    from call import call

    @pytest.mark.parametrize("number", range(4))
    def test_paid(synth_lease, number, kind):
        body = f"order {number}"
        assert call(synth_lease, "/hooks/paid", body.encode()) == kind + " /hooks/paid"
        assert shop.paid[-1] == body, "test and app share their state"
"""


@pytest.fixture
def run(
    pytester: pytest.Pytester, runtime: RuntimeDirectory, monkeypatch: pytest.MonkeyPatch
) -> pytest.Pytester:
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    pytester.makepyfile(call=CALL)
    return pytester


@pytest.mark.parametrize(
    ("kind", "arguments"),
    # What serves WSGI and what serves ASGI in each way of running, and each framework in one.
    [
        *((kind, arguments) for kind in ("flask", "fastapi") for arguments in WAYS),
        *((kind, ["-n", "2"]) for kind in SHOPS if kind not in ("flask", "fastapi")),
    ],
    ids=str,
)
def test_an_app_of_each_kind(
    run: pytest.Pytester, runtime: RuntimeDirectory, kind: str, arguments: list[str]
) -> None:
    pytest.importorskip(kind.partition("-")[0])
    run.makepyfile(shop=SHOPS[kind], test_shop=TESTS)
    run.makeconftest(
        f"""
        import pytest, shop

        @pytest.fixture
        def kind():
            return {kind!r}

        @pytest.fixture(scope="session", autouse=True)
        def served(synth_serve):
            return synth_serve(shop.app)
        """
    )

    result = run.runpytest_subprocess("-W", "error", *arguments)

    result.assert_outcomes(passed=4)
    runtime.assert_nothing_left()


@pytest.mark.parametrize("kind", ["flask", "fastapi"])
@RUNS
def test_an_option_serves_it_without_a_fixture(
    run: pytest.Pytester, runtime: RuntimeDirectory, kind: str, arguments: list[str]
) -> None:
    pytest.importorskip(kind)
    folder = run.mkpydir("checks")
    run.makepyfile(shop=SHOPS[kind])
    run.makepyfile(**{"checks/test_shop": TESTS})
    run.makeini("[pytest]\nsynth_tunnels_app = shop:app\npythonpath = .")
    run.makeconftest(f"import pytest\n@pytest.fixture\ndef kind():\n    return {kind!r}\n")
    os.chdir(folder)

    result = run.runpytest_subprocess("-W", "error", *arguments)

    result.assert_outcomes(passed=4)
    runtime.assert_nothing_left()


def test_a_module_is_found_from_the_root_folder(
    run: pytest.Pytester, runtime: RuntimeDirectory
) -> None:
    run.makeini("[pytest]\naddopts = --import-mode=importlib")
    (run.path / "shop.py").write_text(
        "def app(environ, start_response):\n"
        "    import shelf\n"
        "    start_response('200 OK', [])\n"
        "    return [shelf.LINE]\n"
    )
    (run.path / "shelf.py").write_text("LINE = b'found'\n")
    (run.path / "checks").mkdir()
    (run.path / "checks" / "test_it.py").write_text(
        CALL + "\ndef test_it(synth_lease):\n    assert call(synth_lease) == 'found'\n"
    )

    result = run.runpytest_subprocess("--synth-tunnels-app=shop:app", "checks")

    result.assert_outcomes(passed=1)


@pytest.mark.parametrize("kind", ["asgi", "wsgi"])
def test_an_app_of_its_own_for_each_test(
    run: pytest.Pytester, runtime: RuntimeDirectory, kind: str
) -> None:
    run.makepyfile(
        f"""
        import pytest
        from call import call

        def make(name):
            if {kind!r} == "wsgi":
                def app(environ, start_response):
                    start_response("200 OK", [])
                    return [name.encode()]
            else:
                async def app(scope, receive, send):
                    await send({{"type": "http.response.start", "status": 200, "headers": []}})
                    await send({{"type": "http.response.body", "body": name.encode()}})
            return app

        @pytest.mark.parametrize("number", range(10))
        def test_own(synth_serve, synth_lease, number):
            with synth_serve(make(f"app {{number}}")) as server:
                assert server.port == synth_lease.local_port
                for _ in range(3):
                    assert call(synth_lease) == f"app {{number}}"

        def test_another_port_and_a_lease_for_it(synth_serve, synth_expose, synth_lease):
            with synth_serve(make("one")), synth_serve(make("other"), port=0) as other:
                with synth_expose(other.port) as lease:
                    assert (call(synth_lease), call(lease)) == ("one", "other")
        """
    )

    result = run.runpytest_subprocess("-W", "error", "-p", "no:xdist")

    result.assert_outcomes(passed=11)
    runtime.assert_nothing_left()


def test_a_start_up_that_fails_shows_the_app_s_own_exception(
    run: pytest.Pytester, runtime: RuntimeDirectory
) -> None:
    run.makepyfile(
        """
        from contextlib import asynccontextmanager

        import pytest

        fastapi = pytest.importorskip("fastapi")

        @asynccontextmanager
        async def lifespan(app):
            raise ConnectionError("no database on port 5432")
            yield

        def test_it(synth_serve):
            synth_serve(fastapi.FastAPI(lifespan=lifespan))
        """
    )

    result = run.runpytest_subprocess("-W", "error", "-p", "no:xdist")

    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            "E *ConnectionError: no database on port 5432",
            "E *ServeError: fastapi.applications.FastAPI did not start: ConnectionError: no*",
        ]
    )
    runtime.assert_nothing_left()


@pytest.mark.parametrize(
    ("app", "lines"),
    [
        ("shop:app", ["*there is no module 'shop' in *"]),
        ("broken:app", ["*ZeroDivisionError: division by zero", "*import of broken raised Zero*"]),
    ],
)
def test_an_app_that_cannot_be_imported(
    run: pytest.Pytester, runtime: RuntimeDirectory, app: str, lines: list[str]
) -> None:
    run.makepyfile(broken="1 / 0", test_it="def test_it(synth_lease): pass")

    result = run.runpytest_subprocess(f"--synth-tunnels-app={app}", "-p", "no:xdist")

    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(lines)
    runtime.assert_nothing_left()


def test_an_app_that_hangs_is_named_and_not_waited_for(
    run: pytest.Pytester, runtime: RuntimeDirectory
) -> None:
    run.makepyfile(
        """
        import threading
        from urllib.error import URLError

        import pytest
        from call import call

        begun = threading.Event()

        def app(environ, start_response):
            begun.set()
            threading.Event().wait()

        def test_it(synth_serve, synth_lease):
            synth_serve(app)
            def caller():
                try:
                    call(synth_lease, "/hang")
                except OSError:
                    pass
            threading.Thread(target=caller).start()
            assert begun.wait(20)
        """
    )

    result = run.runpytest_subprocess("-p", "no:xdist", timeout=60)

    result.assert_outcomes(passed=1, warnings=1)
    result.stdout.fnmatch_lines(
        ["*test_*.app has not ended 10 s after*while it was answering GET /hang*"]
    )
    runtime.assert_nothing_left()


def test_a_missing_extra_is_one_error(run: pytest.Pytester, runtime: RuntimeDirectory) -> None:
    run.makepyfile(
        """
        import sys

        def test_it(synth_serve):
            sys.modules["uvicorn"] = None
            async def app(scope, receive, send): ...
            synth_serve(app)
        """
    )

    result = run.runpytest_subprocess("-p", "no:xdist")

    result.assert_outcomes(failed=1)
    text = result.stdout.str()
    assert "python -m pip install 'pytest-synth-tunnels[serve]'" in text
    assert "During handling" not in text
    assert "serving/" not in text, "no frame of ours"


@pytest.mark.parametrize("kind", ["flask", "fastapi"])
@pytest.mark.parametrize("where", ["test", "option"])
def test_it_serves_while_sockets_are_blocked(
    run: pytest.Pytester,
    runtime: RuntimeDirectory,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    where: str,
) -> None:
    pytest.importorskip(kind)
    others = [name for name in OTHER_PLUGINS if name != "socket"]
    monkeypatch.setenv("PYTEST_ADDOPTS", " ".join(f"-p no:{name}" for name in others))
    run.makepyfile(
        shop=SHOPS[kind],
        test_it=f"""
        import _socket, socket
        from urllib.parse import urlsplit

        import pytest
        import shop

        @pytest.mark.parametrize("number", range(2))
        def test_it(synth_lease, request, number):
            with pytest.raises(RuntimeError), pytest.warns(UserWarning, match="socket"):
                socket.socket()
            if {where!r} == "test" and number == 0:
                request.getfixturevalue("synth_serve")(shop.app)
            url = urlsplit(synth_lease.url("/hooks/paid"))
            head = [f"POST {{url.path}} HTTP/1.0", f"Host: {{url.netloc}}", "Content-Length: 1"]
            head += [f"{{name}}: {{value}}" for name, value in synth_lease.headers.items()]
            caller = _socket.socket(_socket.AF_INET, _socket.SOCK_STREAM)
            caller.settimeout(20)
            caller.connect((url.hostname, url.port))
            caller.sendall("\\r\\n".join([*head, "", "x"]).encode())
            answer = b""
            while data := caller.recv(4096):
                answer += data
            caller.close()
            assert b" 200 OK" in answer, answer
            assert shop.paid[-1] == "x"
        """,
    )
    option = ["--synth-tunnels-app=shop:app"] if where == "option" else []

    result = run.runpytest_subprocess("--disable-socket", "-p", "no:xdist", *option)

    result.assert_outcomes(passed=2)
    runtime.assert_nothing_left()


@pytest.mark.parametrize("kind", ["flask", "fastapi"])
def test_it_serves_while_time_is_frozen(
    run: pytest.Pytester, runtime: RuntimeDirectory, kind: str
) -> None:
    pytest.importorskip(kind)
    run.makepyfile(
        shop=SHOPS[kind],
        test_it="""
        import _socket

        import freezegun
        import shop
        from call import call

        def test_it(synth_serve, synth_lease):
            with freezegun.freeze_time("2001-02-03"):
                with synth_serve(shop.app):
                    assert call(synth_lease, "/hooks/paid", b"x").endswith("/hooks/paid")
        """,
    )

    result = run.runpytest_subprocess("-p", "no:xdist")

    result.assert_outcomes(passed=1)
    runtime.assert_nothing_left()


def test_websockets_and_logs(run: pytest.Pytester, runtime: RuntimeDirectory) -> None:
    pytest.importorskip("fastapi")
    run.makepyfile(
        """
        import logging

        import fastapi
        import pytest
        from websockets.sync.client import connect

        app = fastapi.FastAPI()

        @app.websocket("/talk")
        async def talk(socket: fastapi.WebSocket):
            await socket.accept()
            logging.getLogger("shop").warning("somebody talks")
            await socket.send_text((await socket.receive_text()).upper())

        def test_it(synth_serve, synth_lease):
            synth_serve(app)
            url = synth_lease.url("/talk").replace("http://", "ws://")
            with connect(url, additional_headers=dict(synth_lease.headers)) as talk:
                talk.send("hello")
                assert talk.recv(20) == "HELLO"
            pytest.fail("to see the log")
        """
    )

    result = run.runpytest_subprocess("-W", "error", "-p", "no:xdist")

    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*Captured log call*", "WARNING *shop:*somebody talks"])
    runtime.assert_nothing_left()


@pytest.mark.parametrize(
    ("given", "arguments", "message"),
    [
        (
            {"app": "shop:app", "command": "serve {port}"},
            [],
            "synth_tunnels_app in the ini file and synth_tunnels_command in the ini file each",
        ),
        (
            {"app": "shop:app", "port": "8123"},
            ["-n", "2"],
            "synth_tunnels_port in the ini file gives them all the port 8123: leave",
        ),
        ({"app": "shop"}, [], "is 'shop': it must be module:attribute, such as shop.main:app"),
        ({"app": "shop:"}, [], "is 'shop:': it must be module:attribute"),
    ],
)
def test_what_excludes_each_other_is_told_at_once(
    run: pytest.Pytester, given: dict[str, str], arguments: list[str], message: str
) -> None:
    lines = [f"synth_tunnels_{name} = {value}" for name, value in given.items()]
    run.makeini("\n".join(["[pytest]", *lines]))
    run.makepyfile("def test_it(synth_lease): pass")

    result = run.runpytest_subprocess(*arguments)

    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert message in result.stderr.str()


@pytest.mark.parametrize(
    ("options", "source"),
    [
        (["--synth-tunnels-app=shop:app"], "--synth-tunnels-app is 'shop:app'"),
        (
            ["--synth-tunnels-command=python -m http.server {port} --bind 127.0.0.1"],
            "--synth-tunnels-command is 'python -m http.server",
        ),
    ],
)
def test_a_port_that_an_option_serves(
    run: pytest.Pytester, runtime: RuntimeDirectory, options: list[str], source: str
) -> None:
    run.makepyfile(
        shop="def app(environ, start_response):\n    start_response('200 OK', [])\n    return []\n",
        test_it="""
        import pytest

        from pytest_synth_tunnels import ServeError
        from call import call
        from shop import app

        def test_it(synth_serve, synth_lease, synth_expose):
            with pytest.raises(ServeError) as caught:
                synth_serve(app)
            with synth_serve(app, port=0) as server, synth_expose(server.port) as lease:
                assert call(lease) == ""
            call(synth_lease)
            pytest.fail(str(caught.value))
        """,
    )

    result = run.runpytest_subprocess("-p", "no:xdist", *options)

    result.assert_outcomes(failed=1)
    assert f"the exposed port is served already: {source}" in result.stdout.str()
    runtime.assert_nothing_left()


@pytest.fixture
def free_port() -> Iterator[int]:
    """A port that this process keeps from the ephemeral ones, and that another can listen on."""
    with socket.socket() as bound:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(("127.0.0.1", 0))
        yield bound.getsockname()[1]


def test_a_fixed_port(run: pytest.Pytester, runtime: RuntimeDirectory, free_port: int) -> None:
    run.makepyfile(
        test_it="""
        from call import call

        def app(environ, start_response):
            start_response("200 OK", [])
            return [environ["SERVER_PORT"].encode()]

        def test_it(synth_serve, synth_lease, synth_settings):
            server = synth_serve(app)
            assert server.port == synth_settings.port
            assert call(synth_lease)
        """
    )

    result = run.runpytest_subprocess("-p", "no:xdist", f"--synth-tunnels-port={free_port}")

    result.assert_outcomes(passed=1)
    runtime.assert_nothing_left()

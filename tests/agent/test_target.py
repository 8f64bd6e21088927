"""Target: a pure value."""

import pytest

from pytest_synth_tunnels.agent.target import Target


@pytest.mark.parametrize(
    ("url", "target"),
    [
        ("http://localhost:8000", Target("localhost", 8000, "localhost:8000")),
        ("http://127.0.0.1:8000/", Target("127.0.0.1", 8000, "127.0.0.1:8000")),
        ("http://app.test", Target("app.test", 80, "app.test")),
        ("http://[::1]:8000", Target("::1", 8000, "[::1]:8000")),
        ("http://App.Test:81", Target("app.test", 81, "App.Test:81")),
        ("http://Shop.localhost:81", Target("localhost", 81, "Shop.localhost:81")),
        ("http://shop.localhost.:81", Target("localhost", 81, "shop.localhost.:81")),
        ("http://[::1%25eth0]:81", Target("::1", 81)),
        ("http://[::1%25eth0]", Target("::1", 80)),
        ("http://[fe80::1%25eth0]:81", Target("fe80::1%25eth0", 81, "[fe80::1%25eth0]:81")),
    ],
)
def test_a_target_is_read_from_a_url(url: str, target: Target) -> None:
    assert Target.from_url(url) == target


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("https://localhost:8000", "only http"),
        ("localhost:8000", "only http"),
        ("http://", "only http"),
        ("http://localhost:8000/app", "host and port alone"),
        ("http://localhost:8000/?q", "host and port alone"),
        ("http://u:p@localhost:8000", "host and port alone"),
        ("http://localhost:99999", "1 and 65535"),
        ("http://localhost:0", "1 and 65535"),
    ],
)
def test_a_url_that_is_no_target_is_refused(url: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Target.from_url(url)


def test_a_target_names_itself() -> None:
    assert Target("127.0.0.1", 8000).own_host == "127.0.0.1:8000"
    assert Target("::1", 8000).own_host == Target("::1", 8000).name == "[::1]:8000"
    named = Target.from_url("http://App.test", host_header="public", strip_prefix=False)
    assert (named.name, named.own_host) == ("app.test:80", "App.test")
    assert (named.host_header, named.strip_prefix) == ("public", False)


@pytest.mark.parametrize("host", ["", "a b", "a/b", "a\r\nX: 1", "user@host", "caf\xe9"])
def test_a_host_that_cannot_be_sent_is_refused(host: str) -> None:
    with pytest.raises(ValueError, match="neither auto, target, public nor a host"):
        Target("127.0.0.1", 8000, host_header=host)


@pytest.mark.parametrize("host", ["shop.localhost", "a.b.LOCALHOST"])
def test_a_name_of_this_machine_is_not_left_to_a_resolver(host: str) -> None:
    target = Target(host, 8000)
    assert (target.host, target.own_host) == ("localhost", f"{host}:8000")
    assert Target("::1%eth0", 8000).host == "::1"

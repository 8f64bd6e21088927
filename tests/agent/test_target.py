"""UrlRewriter, Target and split_address: pure functions of frames and URLs."""

import pytest

from pytest_synth_tunnels.agent.target import Target, UrlRewriter, split_address
from pytest_synth_tunnels.wire.frames import Headers, ReqHeaders

PUBLIC = "http://127.0.0.1:9000/s/rt_1"


def lines(headers: Headers, mount: UrlRewriter | None = None, path: str = "/x") -> list[str]:
    frame = ReqHeaders("l1", "r1", "GET", path, "", headers, 1000)
    mount = mount or UrlRewriter("l1", PUBLIC, "gw1", Target("127.0.0.1", 8000))
    head, _ = mount.request_head(frame, path)
    assert head.endswith("\r\n")
    return head[:-2].split("\r\n")


# --- targets


@pytest.mark.parametrize(
    ("url", "target"),
    [
        ("http://localhost:8000", Target("localhost", 8000, "localhost:8000")),
        ("http://127.0.0.1:8000/", Target("127.0.0.1", 8000, "127.0.0.1:8000")),
        ("http://app.test", Target("app.test", 80, "app.test")),
        ("http://[::1]:8000", Target("::1", 8000, "[::1]:8000")),
        ("http://App.Test:81", Target("app.test", 81, "App.Test:81")),
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
    assert Target("127.0.0.1", 8000).host_header == "127.0.0.1:8000"
    assert Target("::1", 8000).host_header == Target("::1", 8000).name == "[::1]:8000"
    assert Target.from_url("http://app.test").name == "app.test:80"


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/~gw1/x/y", ("gw1", "/x/y")),
        ("/~gw1", ("gw1", "/")),
        ("/~gw1/", ("gw1", "/")),
        ("/%7Egw1/x", ("gw1", "/x")),
        ("/%7egw1", ("gw1", "/")),
        ("/x/~gw1", ("", "/x/~gw1")),
        ("/~/x", ("", "/~/x")),
        ("/%7F", ("", "/%7F")),
        ("/", ("", "/")),
    ],
)
def test_the_address_is_the_first_segment(path: str, expected: tuple[str, str]) -> None:
    assert split_address(path) == expected


# --- the request head


def test_what_the_app_is_told() -> None:
    assert lines([("Host", "relay"), ("X-Forwarded-Prefix", "/s/rt_1"), ("A", "1")]) == [
        "GET /x HTTP/1.1",
        "Host: 127.0.0.1:8000",
        "X-Forwarded-Prefix: /s/rt_1/~gw1",
        "A: 1",
        "X-Forwarded-Host: 127.0.0.1:9000",
        "X-Forwarded-Proto: http",
        "X-SynthTunnel-Lease-Id: l1",
        "X-SynthTunnel-Request-Id: r1",
    ]


def test_what_the_relay_says_counts() -> None:
    said = [
        ("x-forwarded-host", "public"),
        ("X-Forwarded-Proto", "https"),
        ("X-Forwarded-For", "192.0.2.1"),
        ("x-synthtunnel-lease-id", "L"),
        ("x-synthtunnel-request-id", "R"),
    ]
    assert lines(said)[3:] == [f"{name}: {value}" for name, value in said]


def test_hop_by_hop_headers_and_the_worker_token_stay_behind() -> None:
    told = lines(
        [
            ("Connection", "keep-alive, X-Hop, X-Forwarded-Host, host"),
            ("X-Hop", "1"),
            ("Keep-Alive", "1"),
            ("TE", "trailers"),
            ("Transfer-Encoding", "chunked"),
            ("Upgrade", "h2c"),
            ("Proxy-Authorization", "secret"),
            ("X-SynthTunnel-Worker-Token", "secret"),
            ("Expect", "100-continue"),
            ("Authorization", "Bearer app"),
            ("X-Forwarded-Host", "public"),
        ]
    )
    assert told[3:5] == ["Authorization: Bearer app", "X-Forwarded-Host: public"]
    assert [line.split(":")[0] for line in told[5:]] == [
        "X-Forwarded-Proto",
        "X-SynthTunnel-Lease-Id",
        "X-SynthTunnel-Request-Id",
    ]


@pytest.mark.parametrize(
    ("values", "length"),
    [
        ([], None),
        (["5"], 5),
        (["5", " 5 "], 5),
        (["5", "6"], None),
        (["5", "6", "5"], None),
        (["+5"], None),
        (["\u0665"], None),
        (["-1"], None),
        (["9" * 5000], None),  # more digits than Python takes for a number
    ],
)
def test_the_length_of_the_body(values: list[str], length: int | None) -> None:
    headers = [("Content-Length", value) for value in values]
    frame = ReqHeaders("l1", "r1", "POST", "/", "", headers, 1000)
    mount = UrlRewriter("l1", PUBLIC, "", Target("127.0.0.1", 8000))
    head, found = mount.request_head(frame, "/")
    assert found == length
    assert "content-length" not in head.lower()


def test_a_public_url_at_the_root_has_no_prefix() -> None:
    mount = UrlRewriter("l1", "https://rt-1.example/", "", Target("127.0.0.1", 8000))
    assert not any("Prefix" in line for line in lines([], mount))
    assert mount.publish("/x") == "/x"


ORIGIN = "http://127.0.0.1:5001"


def at_root(target: Target) -> UrlRewriter:
    return UrlRewriter("l1", PUBLIC, "gw1", target, ORIGIN)


def test_at_the_root_of_an_origin_the_app_sees_the_callers_host() -> None:
    mount = at_root(Target("127.0.0.1", 8000))
    head = lines([("x-forwarded-host", "app.test:5001"), ("Accept", "*/*")], mount)
    assert head[:2] == ["GET /x HTTP/1.1", "Host: app.test:5001"]
    assert not any("Prefix" in line for line in head)
    # A relay that does not say it leaves the origin's own.
    assert lines([], mount)[1] == "Host: 127.0.0.1:5001"


def test_a_host_that_the_user_named_is_kept_at_the_root() -> None:
    mount = at_root(Target.from_url("http://shop.localhost:8000"))
    head = lines([("x-forwarded-host", "app.test:5001")], mount)
    assert head[1] == "Host: shop.localhost:8000"


@pytest.mark.parametrize(
    ("location", "expected"),
    [
        ("/login", "/login"),
        (f"{ORIGIN}/login", f"{ORIGIN}/login"),
        ("http://app.test:5001/login", "http://app.test:5001/login"),
        ("http://127.0.0.1:8000/login", f"{ORIGIN}/login"),
        ("http://127.0.0.1:9000/s/rt_2/x", "http://127.0.0.1:9000/s/rt_2/x"),
    ],
)
def test_redirects_at_the_root(location: str, expected: str) -> None:
    assert at_root(Target("127.0.0.1", 8000)).publish(location) == expected


# --- redirects


@pytest.mark.parametrize(
    ("location", "expected"),
    [
        ("/login?next=/a#b", f"{PUBLIC}/~gw1/login?next=/a#b"),
        ("/", f"{PUBLIC}/~gw1/"),
        ("http://127.0.0.1:8000/login", f"{PUBLIC}/~gw1/login"),
        ("http://127.0.0.1:8000", f"{PUBLIC}/~gw1/"),
        ("http://127.0.0.1:8000?q", f"{PUBLIC}/~gw1/?q"),
        ("HTTP://LocalHost:8000/x", f"{PUBLIC}/~gw1/x"),
        ("https://127.0.0.1:8000/x", f"{PUBLIC}/~gw1/x"),
        ("//localhost:8000/x", f"{PUBLIC}/~gw1/x"),
        # The app knows its public host, but not the prefix; or the prefix, but not the host.
        ("http://127.0.0.1:9000/login", f"{PUBLIC}/~gw1/login"),
        ("http://127.0.0.1:8000/s/rt_1/~gw1/login", f"{PUBLIC}/~gw1/login"),
        ("/s/rt_1/~gw10", f"{PUBLIC}/~gw1/s/rt_1/~gw10"),
    ],
)
def test_a_redirect_to_the_app_becomes_public(location: str, expected: str) -> None:
    mount = UrlRewriter("l1", PUBLIC, "gw1", Target("127.0.0.1", 8000))
    assert mount.publish(location) == expected


@pytest.mark.parametrize(
    "location",
    [
        f"{PUBLIC}/~gw1/login",
        f"{PUBLIC}/~gw2/login",
        "/s/rt_1/~gw1",
        "/s/rt_1/~gw1/login",
        "/s/rt_1/~gw1?q",
        "http://127.0.0.1:9000/s/rt_2/oauth",  # another lease of the same relay
        "http://127.0.0.1:8001/x",
        "https://example.com/x",
        "//example.com/x",
        "login",
        "../x",
        "?q=1",
        "#top",
        "",
        "mailto:a@b",
    ],
)
def test_other_redirects_stay(location: str) -> None:
    mount = UrlRewriter("l1", PUBLIC, "gw1", Target("127.0.0.1", 8000))
    assert mount.publish(location) == location


def test_a_host_without_port_is_the_app_too() -> None:
    mount = UrlRewriter("l1", PUBLIC, "", Target.from_url("http://app.test"))
    assert mount.publish("http://app.test/x") == f"{PUBLIC}/x"
    assert mount.publish("http://app.test:80/x") == f"{PUBLIC}/x"


def test_addresses_beside_the_own_one_stay_at_the_root_too() -> None:
    mount = UrlRewriter("l1", "https://rt-1.example", "gw1", Target("127.0.0.1", 8000))
    assert mount.publish("https://rt-1.example/~gw2/x") == "https://rt-1.example/~gw2/x"
    assert mount.publish("https://rt-1.example/x") == "https://rt-1.example/~gw1/x"


def test_only_locations_are_rewritten() -> None:
    mount = UrlRewriter("l1", PUBLIC, "", Target("127.0.0.1", 8000))
    headers = [("location", "/x"), ("CONTENT-LOCATION", "/y"), ("X-Location", "/x")]
    assert mount.response_headers(headers) == [
        ("location", f"{PUBLIC}/x"),
        ("CONTENT-LOCATION", f"{PUBLIC}/y"),
        ("X-Location", "/x"),
    ]

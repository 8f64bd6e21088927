"""UrlRewriter and split_address: pure functions of frames and URLs."""

from email.message import Message
from http.cookiejar import CookieJar
from types import SimpleNamespace
from urllib.request import Request

import pytest

from pytest_synth_tunnels.agent.target import Target
from pytest_synth_tunnels.agent.url_rewriter import UrlRewriter, split_address
from pytest_synth_tunnels.http.headers import Headers
from pytest_synth_tunnels.wire.frames import ReqHeaders

PUBLIC = "http://127.0.0.1:9000/s/rt_1"


def lines(headers: Headers, rewriter: UrlRewriter | None = None, path: str = "/x") -> list[str]:
    frame = ReqHeaders("l1", "r1", "GET", path, "", headers, 1000)
    rewriter = rewriter or UrlRewriter("l1", PUBLIC, "gw1", Target("127.0.0.1", 8000))
    head, _ = rewriter.request_head(frame, path)
    assert head.endswith("\r\n")
    return head[:-2].split("\r\n")


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
        ("/~gw1?", ("gw1", "/?")),
        ("/~gw1/x?", ("gw1", "/x?")),
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
            ("Proxy-Connection", "secret"),
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
    rewriter = UrlRewriter("l1", PUBLIC, "", Target("127.0.0.1", 8000))
    head, found = rewriter.request_head(frame, "/")
    assert found == length
    # It goes to the app once, as the caller wrote it, or not at all.
    assert head.lower().count("content-length") == (length is not None)


def test_the_length_stays_where_it_is_and_cannot_be_taken_off() -> None:
    said = [("A", "1"), ("content-LENGTH", "05"), ("Connection", "content-length"), ("B", "2")]
    told = lines(said)
    assert told[3:6] == ["A: 1", "content-LENGTH: 05", "B: 2"]


def test_a_public_url_at_the_root_has_no_prefix() -> None:
    rewriter = UrlRewriter("l1", "https://rt-1.example/", "", Target("127.0.0.1", 8000))
    assert not any("Prefix" in line for line in lines([], rewriter))
    assert rewriter.publish("/x") == "/x"


ORIGIN = "http://127.0.0.1:5001"


def at_root(target: Target) -> UrlRewriter:
    return UrlRewriter("l1", PUBLIC, "gw1", target, ORIGIN)


def test_an_origin_that_has_a_secret_path() -> None:
    """The path is a prefix like any other; both names of the origin are the app's own."""
    rewriter = UrlRewriter(
        "l1",
        PUBLIC,
        "gw1",
        Target("127.0.0.1", 8000),
        "http://host.docker.internal:5001/u_1",
        "http://172.17.0.1:5001/u_1",
    )
    told = lines([("X-Forwarded-Host", "172.17.0.1:5001")], rewriter)
    assert told[1:3] == ["Host: 172.17.0.1:5001", "X-Forwarded-Prefix: /u_1"]
    for given, public in [
        ("/x", "/u_1/x"),
        ("/u_1/x", "/u_1/x"),
        ("http://127.0.0.1:8000/x", "http://host.docker.internal:5001/u_1/x"),
        ("http://host.docker.internal:5001/x", "http://host.docker.internal:5001/u_1/x"),
        ("http://172.17.0.1:5001/x", "http://172.17.0.1:5001/u_1/x"),
        ("http://172.17.0.1:5001/s/x", "http://172.17.0.1:5001/u_1/s/x"),
        ("http://172.17.0.1:5001/u_1/x", "http://172.17.0.1:5001/u_1/x"),
        ("http://172.17.0.2:5001/x", "http://172.17.0.2:5001/x"),
    ]:
        assert rewriter.publish(given) == public
    assert rewriter.localize("http://172.17.0.1:5001/u_1/x") == "http://172.17.0.1:5001/x"
    (cookie,) = rewriter.response_headers([("Set-Cookie", "a=1; Path=/")], "/x")
    assert cookie == ("Set-Cookie", "a=1; Path=/u_1")


def test_an_app_behind_https_that_does_not_know_it() -> None:
    origin = "https://app.test:8443"
    rewriter = UrlRewriter("l1", PUBLIC, "", Target("127.0.0.1", 8000), origin)
    assert "X-Forwarded-Proto: https" in lines([], rewriter)
    for given, public in [
        ("http://app.test:8443/x", f"{origin}/x"),
        ("HTTP://app.test:8443", origin),
        ("https://app.test:8443/x", f"{origin}/x"),
        ("//app.test:8443/x", "//app.test:8443/x"),
        ("http://127.0.0.1:8000/x", f"{origin}/x"),
        ("http://other.test/x", "http://other.test/x"),
        ("/x", "/x"),
    ]:
        assert rewriter.publish(given) == public
    # What callers say of themselves stays theirs.
    assert rewriter.localize(f"{origin}/x") == f"{origin}/x"


def test_at_the_root_of_an_origin_the_app_sees_the_callers_host() -> None:
    rewriter = at_root(Target("127.0.0.1", 8000))
    head = lines([("x-forwarded-host", "app.test:5001"), ("Accept", "*/*")], rewriter)
    assert head[:2] == ["GET /x HTTP/1.1", "Host: app.test:5001"]
    assert not any("Prefix" in line for line in head)
    # A relay that does not say it leaves the origin's own.
    assert lines([], rewriter)[1] == "Host: 127.0.0.1:5001"


def test_a_host_that_the_user_named_is_kept_at_the_root() -> None:
    rewriter = at_root(Target.from_url("http://shop.localhost:8000"))
    head = lines([("x-forwarded-host", "app.test:5001")], rewriter)
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
        ("/login?next=/a#b", "/s/rt_1/~gw1/login?next=/a#b"),
        ("/", "/s/rt_1/~gw1/"),
        ("http://127.0.0.1:8000/login", f"{PUBLIC}/~gw1/login"),
        ("http://127.0.0.1:8000", f"{PUBLIC}/~gw1/"),
        ("http://127.0.0.1:8000?q", f"{PUBLIC}/~gw1/?q"),
        ("HTTP://LocalHost:8000/x", f"{PUBLIC}/~gw1/x"),
        ("https://127.0.0.1:8000/x", f"{PUBLIC}/~gw1/x"),
        ("//localhost:8000/x", f"{PUBLIC}/~gw1/x"),
        # The app knows its public host, but not the prefix; or the prefix, but not the host.
        ("http://127.0.0.1:9000/login", f"{PUBLIC}/~gw1/login"),
        ("http://127.0.0.1:8000/s/rt_1/~gw1/login", f"{PUBLIC}/~gw1/login"),
        ("/s/rt_1/~gw10", "/s/rt_1/~gw1/s/rt_1/~gw10"),
        # The caller may know this machine by another name.
        ("http://localhost:9000/login", "http://localhost:9000/s/rt_1/~gw1/login"),
    ],
)
def test_a_redirect_to_the_app_becomes_public(location: str, expected: str) -> None:
    rewriter = UrlRewriter("l1", PUBLIC, "gw1", Target("127.0.0.1", 8000))
    assert rewriter.publish(location) == expected


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
    rewriter = UrlRewriter("l1", PUBLIC, "gw1", Target("127.0.0.1", 8000))
    assert rewriter.publish(location) == location


def test_a_host_without_port_is_the_app_too() -> None:
    rewriter = UrlRewriter("l1", PUBLIC, "", Target.from_url("http://app.test"))
    assert rewriter.publish("http://app.test/x") == f"{PUBLIC}/x"
    assert rewriter.publish("http://app.test:80/x") == f"{PUBLIC}/x"


def test_addresses_beside_the_own_one_stay_at_the_root_too() -> None:
    rewriter = UrlRewriter("l1", "https://rt-1.example", "gw1", Target("127.0.0.1", 8000))
    assert rewriter.publish("https://rt-1.example/~gw2/x") == "https://rt-1.example/~gw2/x"
    assert rewriter.publish("https://rt-1.example/x") == "https://rt-1.example/~gw1/x"


# --- the headers of a request that name the app


def in_path(target: Target | None = None) -> UrlRewriter:
    return UrlRewriter("l1", PUBLIC, "gw1", target or Target("127.0.0.1", 8000))


def value_of(name: str, told: list[str]) -> str:
    (value,) = (line[len(name) + 2 :] for line in told if line.startswith(f"{name}: "))
    return value


@pytest.mark.parametrize("name", ["Referer", "Destination", "REFERER"])
@pytest.mark.parametrize(
    ("said", "told"),
    [
        (f"{PUBLIC}/~gw1/a?b=/s/rt_1#c", "http://127.0.0.1:8000/a?b=/s/rt_1#c"),
        (f"{PUBLIC}/~gw1", "http://127.0.0.1:8000/"),
        ("https://127.0.0.1:9000/s/rt_1/~gw1/a", "http://127.0.0.1:8000/a"),
        ("http://LOCALHOST:9000/s/rt_1/~gw1/a", "http://127.0.0.1:8000/a"),
        ("http://127.0.0.1:9000/", "http://127.0.0.1:8000/"),
        ("/s/rt_1/~gw1/a", "/a"),
        ("/a", "/a"),
        ("http://127.0.0.1:9000/s/rt_2/a", "http://127.0.0.1:9000/s/rt_2/a"),
        (f"{PUBLIC}/~gw10/a", f"{PUBLIC}/~gw10/a"),
        ("http://example.com/s/rt_1/~gw1/a", "http://example.com/s/rt_1/~gw1/a"),
        ("", ""),
    ],
)
def test_what_names_the_app_is_told_as_if_directly(name: str, said: str, told: str) -> None:
    assert value_of(name, lines([(name, said)], in_path())) == told


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("http://127.0.0.1:9000", "http://127.0.0.1:8000"),
        ("http://relay.test:9000", "http://127.0.0.1:8000"),  # as the caller named it
        ("http://127.0.0.1:9001", "http://127.0.0.1:9001"),
        ("https://example.com", "https://example.com"),
        ("null", "null"),
    ],
)
def test_the_origin_goes_with_the_host(said: str, told: str) -> None:
    headers = [("Origin", said), ("x-forwarded-host", "relay.test:9000")]
    assert value_of("Origin", lines(headers, in_path())) == told


def test_the_resources_that_a_condition_names_go_with_it() -> None:
    said = f'<{PUBLIC}/~gw1/a> (<opaquelocktoken:1> ["e"]) </s/rt_1/~gw1/b> (Not <DAV:x>)'
    assert value_of("If", lines([("If", said)], in_path())) == (
        '<http://127.0.0.1:8000/a> (<opaquelocktoken:1> ["e"]) </b> (Not <DAV:x>)'
    )


def test_at_a_root_with_the_callers_host_nothing_is_mapped() -> None:
    headers = [
        ("Origin", "http://app.test:5001"),
        ("Referer", "http://app.test:5001/a"),
        ("Destination", f"{ORIGIN}/s/rt_1/b"),
    ]
    told = lines([*headers, ("x-forwarded-host", "app.test:5001")], at_root(Target("::1", 8000)))
    assert told[2:5] == [f"{name}: {value}" for name, value in headers]


def test_at_a_root_the_origin_follows_a_host_that_the_user_named() -> None:
    rewriter = at_root(Target.from_url("http://shop.localhost:8000"))
    told = lines([("Origin", ORIGIN), ("Referer", f"{ORIGIN}/a")], rewriter)
    assert value_of("Origin", told) == "http://shop.localhost:8000"
    assert value_of("Referer", told) == "http://shop.localhost:8000/a"


# --- which host the app sees


@pytest.mark.parametrize("style", ["path", "root"])
@pytest.mark.parametrize("named", ["", "shop.test:81"])
@pytest.mark.parametrize("wanted", ["auto", "target", "public", "www.shop.example"])
def test_which_host_the_app_sees(style: str, named: str, wanted: str) -> None:
    target = Target("127.0.0.1", 8000, named, wanted)
    rewriter = in_path(target) if style == "path" else at_root(target)
    (host,) = (
        line[6:]
        for line in lines([("x-forwarded-host", "caller.test:1")], rewriter)
        if line.startswith("Host: ")
    )
    own = named or "127.0.0.1:8000"
    assert (
        host
        == {
            "auto": "caller.test:1" if style == "root" and not named else own,
            "target": own,
            "public": "caller.test:1",
            "www.shop.example": "www.shop.example",
        }[wanted]
    )


@pytest.mark.parametrize(
    ("public_url", "host"),
    [
        ("http://127.0.0.1:7000", "127.0.0.1:7000"),
        ("https://rt-1.example", "127.0.0.1:8000"),
        ("http://127.0.0.1:7000/m", "127.0.0.1:8000"),
    ],
)
def test_a_public_url_at_a_root_of_this_machine_shows_the_callers_host(
    public_url: str, host: str
) -> None:
    rewriter = UrlRewriter("l1", public_url, "", Target("127.0.0.1", 8000))
    assert value_of("Host", lines([], rewriter)) == host


def test_a_host_of_its_own_is_the_apps_too() -> None:
    rewriter = in_path(Target("127.0.0.1", 8000, host_header="www.shop.example"))
    assert rewriter.publish("https://www.shop.example/a") == f"{PUBLIC}/~gw1/a"
    assert value_of("Origin", lines([("Origin", "http://127.0.0.1:9000")], rewriter)) == (
        "http://www.shop.example"
    )


def test_with_the_public_host_in_path_style_only_the_prefix_is_mapped() -> None:
    rewriter = in_path(Target("127.0.0.1", 8000, host_header="public"))
    headers = [
        ("Origin", "http://app.test:9000"),
        ("Referer", "http://app.test:9000/s/rt_1/~gw1/a"),
        ("x-forwarded-host", "app.test:9000"),
    ]
    told = lines(headers, rewriter)
    assert told[1:3] == ["Host: app.test:9000", "X-Forwarded-Prefix: /s/rt_1/~gw1"]
    assert value_of("Origin", told) == "http://app.test:9000"
    assert value_of("Referer", told) == "http://app.test:9000/a"


# --- a prefix that stays


def test_a_prefix_that_stays_is_in_the_path_and_nothing_is_mapped_for_it() -> None:
    rewriter = in_path(Target("127.0.0.1", 8000, strip_prefix=False))
    told = lines([("Referer", f"{PUBLIC}/~gw1/a"), ("Origin", "http://127.0.0.1:9000")], rewriter)
    assert told[0] == "GET /s/rt_1/~gw1/x HTTP/1.1"
    assert not any("Prefix" in line for line in told)
    assert value_of("Referer", told) == "http://127.0.0.1:8000/s/rt_1/~gw1/a"
    assert value_of("Origin", told) == "http://127.0.0.1:8000"
    said = [
        ("Location", "/s/rt_1/~gw1/login"),
        ("Location", "/elsewhere"),
        ("Location", "http://127.0.0.1:8000/s/rt_1/~gw1/login"),
        ("Set-Cookie", "a=1; Path=/s/rt_1/~gw1/"),
        ("Set-Cookie", "a=1"),
    ]
    assert [value for _, value in rewriter.response_headers(said, "/")] == [
        "/s/rt_1/~gw1/login",
        "/elsewhere",
        f"{PUBLIC}/~gw1/login",
        "a=1; Path=/s/rt_1/~gw1/",
        "a=1",
    ]


# --- the headers of an answer that name the app


def test_urls_in_an_answers_headers_are_mapped_and_no_others() -> None:
    headers = [
        ("location", "/x"),
        ("CONTENT-LOCATION", "http://127.0.0.1:8000/y"),
        ("Link", '</a.css>; rel=preload, <http://127.0.0.1:8000/b>; rel="next /c", <d>; rel=x'),
        ("Refresh", "5; url=/next"),
        ("Refresh", "5;URL='http://127.0.0.1:8000/next'"),
        ("Refresh", "5"),
        ("Access-Control-Allow-Origin", "http://127.0.0.1:8000"),
        ("Access-Control-Allow-Origin", "https://example.com"),
        ("Access-Control-Allow-Origin", "*"),
        ("X-Location", "/x"),
    ]
    assert in_path().response_headers(headers, "/x") == [
        ("location", "/s/rt_1/~gw1/x"),
        ("CONTENT-LOCATION", f"{PUBLIC}/~gw1/y"),
        (
            "Link",
            f'</s/rt_1/~gw1/a.css>; rel=preload, <{PUBLIC}/~gw1/b>; rel="next /c", <d>; rel=x',
        ),
        ("Refresh", "5; url=/s/rt_1/~gw1/next"),
        ("Refresh", f"5;URL='{PUBLIC}/~gw1/next'"),
        ("Refresh", "5"),
        ("Access-Control-Allow-Origin", "http://127.0.0.1:9000"),
        ("Access-Control-Allow-Origin", "https://example.com"),
        ("Access-Control-Allow-Origin", "*"),
        ("X-Location", "/x"),
    ]


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("a=1; Path=/", "a=1; Path=/s/rt_1/~gw1"),
        ("a=1;path=/app; Secure", "a=1;path=/s/rt_1/~gw1/app; Secure"),
        ("a=1; Path=/app/; HttpOnly", "a=1; Path=/s/rt_1/~gw1/app/; HttpOnly"),
        ("a=1; Path=/a; Path=/b", "a=1; Path=/a; Path=/s/rt_1/~gw1/b"),
        ('a=1; Path="/b"', "a=1; Path=/s/rt_1/~gw1/b"),
        ("a=/x; Comment=Path=/", "a=/x; Comment=Path=/"),
        # An app that knows its prefix.
        ("a=1; Path=/s/rt_1/~gw1", "a=1; Path=/s/rt_1/~gw1"),
        ("a=1; Path=/s/rt_1/~gw1/x", "a=1; Path=/s/rt_1/~gw1/x"),
        ("a=1; Path=/s/rt_1/~gw10", "a=1; Path=/s/rt_1/~gw1/s/rt_1/~gw10"),
        # Without a path of its own a cookie has that of the page, which is mapped already.
        ("a=1", "a=1"),
        ("a=; Max-Age=0; Path=", "a=; Max-Age=0; Path="),
        ("__Host-a=1; Path=/; Secure", "__Host-a=1; Path=/; Secure"),
        # A caller has no cookies of the app's own host.
        ("a=1; Domain=127.0.0.1; Path=/", "a=1; Path=/s/rt_1/~gw1"),
        ("a=1; Domain=example.com", "a=1; Domain=example.com"),
    ],
)
def test_the_path_of_a_cookie(said: str, told: str) -> None:
    target = Target("127.0.0.1", 8000)
    rewriter = UrlRewriter("l1", "https://relay.test/s/rt_1", "gw1", target)
    assert rewriter.response_headers([("Set-Cookie", said)], "/page") == [("Set-Cookie", told)]


@pytest.mark.parametrize("domain", ["shop.test", ".Shop.Test", "www.shop.test"])
def test_a_cookie_for_the_host_that_the_app_knows_is_for_the_callers_host(domain: str) -> None:
    rewriter = at_root(Target.from_url("http://www.shop.test:8000"))
    headers = [("Set-Cookie", f"a=1; Domain={domain}; Path=/")]
    assert rewriter.response_headers(headers, "/") == [("Set-Cookie", "a=1; Path=/")]


def test_at_a_root_cookies_stay_as_they_are() -> None:
    headers = [("Set-Cookie", "a=1; Path=/; Domain=app.test"), ("Set-Cookie", "b=2")]
    assert at_root(Target("127.0.0.1", 8000)).response_headers(headers, "/") == headers


DIRECT = "http://127.0.0.1:8000"


@pytest.mark.parametrize("slash", ["", "/"])
@pytest.mark.parametrize("deleted_at", ["/", "/logout", "/app/logout", "/app/"])
@pytest.mark.parametrize("set_at", ["/", "/login", "/app/", "/app/login"])
@pytest.mark.parametrize("attributes", ["", "; Path=/", "; Path=/app"])
def test_a_jar_of_cookies_is_left_as_directly(
    set_at: str, attributes: str, deleted_at: str, slash: str
) -> None:
    """Set a cookie, delete it without a path, and look where it is sent: as without the tunnel."""

    def sent_to(base: str, rewriter: UrlRewriter | None) -> list[bool]:
        jar = CookieJar()
        for path, cookie in ((set_at, f"a=1{attributes}"), (deleted_at, "a=; Max-Age=0")):
            url = base + path
            if path == "/":
                url = base + slash
            headers = [("Set-Cookie", cookie)]
            if rewriter is not None:
                headers = rewriter.response_headers(headers, path)
            response = Message()
            for name, value in headers:
                response[name] = value
            jar.extract_cookies(SimpleNamespace(info=lambda r=response: r), Request(url))
        found = []
        for path in ("/", "/x", "/app", "/app/x"):
            request = Request(base + path)
            jar.add_cookie_header(request)
            found.append(request.has_header("Cookie"))
        return found

    assert sent_to(f"{PUBLIC}/~gw1", in_path()) == sent_to(DIRECT, None)

"""Who may use a lease's public URL, and which headers reach the app."""

import pytest

from pytest_synth_tunnels.http.request import HeadParser
from pytest_synth_tunnels.relay import auth
from pytest_synth_tunnels.relay.auth import AuthError


def admit(found, worker_token="wt_secret", *, require_token=True):  # noqa: S107
    headers, chains = auth.admit(found, worker_token, require_token=require_token)
    assert chains == []
    return headers


def head(*lines):
    text = "".join(f"{line}\r\n" for line in ("GET / HTTP/1.1", "Host: a", *lines, ""))
    return HeadParser().parse(text.encode("latin-1"))


@pytest.mark.parametrize(
    "lines",
    [
        ["Authorization: Bearer wt_secret"],
        ["authorization: bearer   wt_secret "],
        ["X-SynthTunnel-Worker-Token: wt_secret"],
        ["x-synthtunnel-worker-token:  wt_secret "],
        ["X-SynthTunnel-Worker-Token: wt_secret", "Authorization: Bearer wt_secret"],
        ["X-SynthTunnel-Worker-Token: old", "Authorization: Bearer wt_secret"],
    ],
)
def test_the_token_by_either_header_never_reaches_the_app(lines):
    assert admit(head(*lines, "A: 1")) == [("A", "1")]


def test_the_app_keeps_its_own_authorization():
    lines = ["X-SynthTunnel-Worker-Token: wt_secret", "Authorization: Basic eDp5"]
    assert admit(head(*lines)) == [("Authorization", "Basic eDp5")]


@pytest.mark.parametrize(
    ("lines", "code"),
    [
        ([], "TUNNEL_AUTH_REQUIRED"),
        (["Cookie: wt_secret"], "TUNNEL_AUTH_REQUIRED"),
        (["Authorization: Bearer wt_secre"], "TUNNEL_AUTH_INVALID"),
        (["Authorization: Bearer"], "TUNNEL_AUTH_INVALID"),
        (["Authorization: Basic wt_secret"], "TUNNEL_AUTH_INVALID"),
        (["Authorization: Bearer \xe9\xff"], "TUNNEL_AUTH_INVALID"),
        (["X-SynthTunnel-Worker-Token: "], "TUNNEL_AUTH_INVALID"),
        (["X-SynthTunnel-Worker-Token: at_1"], "TUNNEL_AUTH_INVALID"),
    ],
)
def test_refused(lines, code):
    with pytest.raises(AuthError) as caught:
        admit(head(*lines))
    assert caught.value.code == code
    assert "secret" not in str(caught.value)


def test_another_token_of_the_same_lease_is_refused():
    admit(head("Authorization: Bearer wt_new"), "wt_new")
    with pytest.raises(AuthError):
        admit(head("Authorization: Bearer wt_secret"), "wt_new")


def test_a_route_without_token():
    assert admit(head(), None) == []
    authorization = ("Authorization", "Bearer wt_secret")
    assert admit(head(": ".join(authorization)), None) == [authorization]
    # A token that is not required is still not the app's.
    assert admit(head(), require_token=False) == []
    assert admit(head(": ".join(authorization)), require_token=False) == []


def test_what_is_not_end_to_end_or_the_tunnels_own_is_dropped():
    lines = [
        "X-SynthTunnel-Worker-Token: wt_secret",
        "Connection: keep-alive, X-Private, Content-Length, TE",
        "X-Private: 1",
        "Keep-Alive: 1",
        "TE: trailers",
        "Trailer: x",
        "Proxy-Connection: x",
        "Expect: something",
        "X_Forwarded_For: 10.0.0.1",
        "X_Forwarded_Host: evil",
        "X-Forwarded-Proto: https",
        "X-Forwarded-Prefix: /",
        "x_forwarded-prefix: /",
        "X-Forwarded-Anything: 1",
        "X-SynthTunnel-Lease-Id: other",
        "Content-Length: 3",
        "Cookie: a",
        "Cookie: b",
        "X-Real: 1",
    ]
    assert admit(head(*lines)) == [
        ("X-Forwarded-Anything", "1"),
        ("Content-Length", "3"),
        ("Cookie", "a"),
        ("Cookie", "b"),
        ("X-Real", "1"),
    ]


def test_what_the_caller_says_of_other_proxies_is_kept_apart():
    lines = [
        "X-SynthTunnel-Worker-Token: wt_secret",
        "X-Forwarded-For: 10.0.0.1, 10.0.0.2",
        "FORWARDED: for=10.0.0.1",
        "x-forwarded-for: 10.0.0.3",
        "Connection: x-forwarded-for",
    ]
    headers, chains = auth.admit(head(*lines), "wt_secret", require_token=True)
    assert headers == []
    assert chains == [
        ("X-Forwarded-For", "10.0.0.1, 10.0.0.2, 10.0.0.3"),
        ("FORWARDED", "for=10.0.0.1"),
    ]

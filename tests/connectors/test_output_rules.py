"""What connectors make of the lines of their programs. Pure."""

import time
from typing import Any

import pytest

from pytest_synth_tunnels.connectors.cloudflared import CONNECTIONS, CloudflaredConnector
from pytest_synth_tunnels.connectors.cloudflared_quick import CloudflaredQuickConnector
from pytest_synth_tunnels.connectors.loopback import LoopbackConnector
from pytest_synth_tunnels.connectors.ngrok import NgrokConnector
from pytest_synth_tunnels.connectors.output_rules import Outcome, OutputRule, OutputState

STAMP = "2026-11-24T01:37:31Z"


def registered(link: int) -> str:
    return (
        f"{STAMP} INF Registered tunnel connection connIndex={link} connection=6a9c event=0 "
        "ip=198.41.200.13 location=fra01 protocol=quic"
    )


def reading(connector: Any = CloudflaredConnector, *lines: str) -> OutputState:
    reading = OutputState(connector.output_rules, needs_origin=connector.brings_url)
    for line in lines:
        reading.take(line)
    return reading


@pytest.mark.parametrize(
    "line",
    [
        registered(0),
        # As older ones put it.
        f"{STAMP} INF Connection 6a9c36ae-17aa-4b4f-9a55-4c2d2d4b7d1e registered connIndex=0",
        "INF Connection 6a9c36ae registered with protocol: quic",
    ],
)
def test_lines_of_a_connection(line: str) -> None:
    now = reading(CloudflaredConnector, line)

    assert now.connected
    assert now.was_connected
    assert not now.error


@pytest.mark.parametrize(
    "line",
    [
        f"{STAMP} INF Registering tunnel connection connIndex=0",
        f"{STAMP} INF Starting tunnel tunnelID=11111111-2222-3333-4444-555555555555",
        f"{STAMP} ERR Configuration file /dev/null was empty",
        f'{STAMP} ERR Failed to fetch features, default to disable error="lookup x: no such host"',
        f"{STAMP} INF Metrics server stopped",
        # Requests of callers, whose URLs hold what they like.
        (
            f'{STAMP} ERR Request failed error="Unable to reach the origin service" connIndex=0 '
            "dest=https://x.example/invalid/token/unauthorized/rate-limit event=0"
        ),
        f'{STAMP} ERR  error="failed to connect to origin" cfRay=1 originService=http://127.0.0.1:1',
        "",
    ],
)
def test_lines_that_mean_nothing(line: str) -> None:
    before = reading(CloudflaredConnector)
    before.take(line)
    assert (before.connected, before.error, before.is_over) == (False, "", False)

    up = reading(CloudflaredConnector, registered(0), line)
    assert (up.connected, up.error, up.is_over) == (True, "", False)


@pytest.mark.parametrize(
    "line",
    [
        "Provided Tunnel token is not valid.",
        "Provided tunnel token is not valid (illegal base64 data at input byte 4).",
        f'{STAMP} ERR Register tunnel error from server side error="invalid tunnel token"',
        f'{STAMP} ERR Register tunnel error from server side error="Tunnel not found" connIndex=0',
        f'{STAMP} ERR error="tunnel 1111 could not be found"',
        f"{STAMP} ERR you have hit a rate limit",
        f'{STAMP} ERR Register tunnel error from server side error="rate-limited" connIndex=0',
        (
            f'{STAMP} ERR Error unmarshaling QuickTunnel response: error code: 1015 error="invalid '
            'character \'e\'" status_code="429 Too Many Requests"'
        ),
    ],
)
def test_lines_of_the_end(line: str) -> None:
    now = reading(CloudflaredConnector, line)

    assert now.is_over
    assert now.error == now.told
    assert now.hint
    assert not now.error.startswith(STAMP)


@pytest.mark.parametrize(
    "line",
    [
        f"{STAMP} ERR failed to connect to the edge connIndex=0",
        (
            f'{STAMP} ERR Failed to dial a quic connection error="failed to dial to edge: '
            'timeout: no recent network activity" connIndex=0 event=0 ip=198.41.200.13'
        ),
        (
            f'{STAMP} ERR Unable to establish connection with Cloudflare edge error="Dial:'
            ' dial tcp 127.0.0.1:9: connect: connection refused" connIndex=0 event=0 ip=127.0.0.1'
        ),
        f"{STAMP} ERR edge discovery: error looking up Cloudflare edge IPs: the DNS query failed",
    ],
)
def test_lines_of_failures_that_cloudflared_tries_again(line: str) -> None:
    now = reading(CloudflaredConnector, line)
    assert not now.connected
    assert not now.is_over
    assert now.error in line
    assert "7844" in now.hint

    now.take(f"{STAMP} INF Retrying connection in up to 2s connIndex=0 event=0 ip=127.0.0.1")
    assert now.error in line

    now.take(registered(0))
    assert (now.connected, now.error, now.hint, now.told) == (True, "", "", "")


@pytest.mark.parametrize(
    "line",
    [
        "INF Lost connection with the edge connIndex={}",
        "INF Unregistered tunnel connection connIndex={} event=0 ip=198.41.200.13",
        "INF Retrying connection in up to 1s connIndex={} event=0 ip=198.41.200.13",
        'ERR Connection terminated error="timeout: no recent network activity" connIndex={}',
        'ERR Serve tunnel error error="connection with edge closed" connIndex={} event=0',
    ],
)
def test_connections_that_come_and_go(line: str) -> None:
    now = reading(CloudflaredConnector, registered(0), registered(1))

    now.take(f"{STAMP} {line.format(0)}")
    assert now.connected
    now.take(f"{STAMP} {line.format(1)}")
    assert not now.connected
    assert now.error
    assert not now.is_over
    now.take(registered(1))
    assert now.connected
    assert now.error == ""


UNAUTHORIZED = (
    f"{STAMP} ERR Register tunnel error from server side "
    'error="Unauthorized: Failed to get tunnel" connIndex=0 event=0 ip=198.41.200.13'
)


def test_an_edge_that_does_not_know_a_new_tunnel_yet() -> None:
    now = reading(CloudflaredConnector, UNAUTHORIZED, UNAUTHORIZED)
    assert not now.is_over
    assert "Failed to get tunnel" in now.error

    now.take(registered(0))
    assert now.connected
    now.take(UNAUTHORIZED)
    assert not now.is_over
    now.take(UNAUTHORIZED)
    now.take(UNAUTHORIZED)
    assert now.is_over


def test_a_token_that_is_refused_while_other_connections_are_up() -> None:
    refused = f'{STAMP} ERR Register tunnel error error="invalid token" connIndex=0'
    now = reading(CloudflaredConnector, registered(0), registered(1), refused)
    # A line that names no connection takes none away.
    assert now.connected
    assert not now.is_over


def test_a_rate_limit_of_a_tunnel_that_has_worked_is_not_the_end() -> None:
    lost = f"{STAMP} INF Lost connection with the edge connIndex=0"
    limited = f"{STAMP} ERR Register tunnel error rate limited connIndex=0"
    now = reading(CloudflaredConnector, registered(0), lost, limited)

    assert not now.connected
    assert not now.is_over
    assert "rate limited" in now.error


FRAME = f"{STAMP} INF |  https://made-of-four-words.trycloudflare.com        |"


def test_what_follows_from_the_end_does_not_hide_its_cause() -> None:
    now = reading(
        CloudflaredQuickConnector,
        f'{STAMP} ERR Error unmarshaling QuickTunnel response: error code: 1015 error="invalid"',
        "failed to unmarshal quick Tunnel: invalid character 'e' looking for beginning of value",
        registered(0),
    )

    assert not now.connected
    assert "error code: 1015" in now.error
    assert "Wait" in now.hint


def test_a_quick_tunnel_is_there_with_its_name_and_a_connection() -> None:
    now = reading(CloudflaredQuickConnector, FRAME)
    assert not now.connected
    now.take(registered(0))
    assert now.connected
    assert now.origin == "https://made-of-four-words.trycloudflare.com"

    other = reading(CloudflaredQuickConnector, registered(0))
    assert not other.connected
    assert not other.was_connected
    other.take(FRAME)
    assert other.connected
    assert other.was_connected

    now.ended("cloudflared ended (exit status 1)")
    assert not now.connected
    assert now.origin is None
    now.started()
    now.take(FRAME.replace("four", "five"))
    now.take(registered(0))
    assert now.origin == "https://made-of-five-words.trycloudflare.com"


@pytest.mark.parametrize(
    "line",
    [
        'failed to request quick Tunnel: Post "https://api.trycloudflare.com/tunnel": dial tcp: no',
        f"{STAMP} INF |  https://api.trycloudflare.com  |",
        f"{STAMP} INF Requesting new quick Tunnel on trycloudflare.com...",
        f"{STAMP} INF |  https://trycloudflare.com.example.net  |",
    ],
)
def test_what_is_no_name_of_a_quick_tunnel(line: str) -> None:
    assert reading(CloudflaredQuickConnector, line).origin is None


@pytest.mark.parametrize(
    ("line", "part"),
    [
        ("failed: failed to connect session: failed to establish tcp connection", "reachable"),
        (
            "failed: failed to connect session: authentication failed: no: ERR_NGROK_105",
            "AUTHTOKEN",
        ),
        ("failed: your account is limited to 1 simultaneous session: ERR_NGROK_108", "wait"),
    ],
)
def test_lines_of_ngrok(line: str, part: str) -> None:
    assert part in reading(NgrokConnector, line).hint

    now = reading(NgrokConnector, "connected: https://a.ngrok.app")
    assert now.origin == "https://a.ngrok.app"
    now.take("offline: reset by peer")
    assert (now.connected, now.error) == (False, "offline: reset by peer")


def test_lines_of_the_loopback_connector() -> None:
    now = reading(LoopbackConnector, "offline: nobody there", "connected")
    assert now.connected
    now.take("offline: the relay answered 401 unknown agent token")
    assert not now.is_over
    assert reading(LoopbackConnector, "offline: the relay answered 401").is_over
    assert reading(LoopbackConnector, "refused: no such lease").is_over


def test_the_end_of_a_program() -> None:
    never = reading(CloudflaredConnector)
    never.ended("cloudflared ended (exit status 1)")
    assert never.is_over
    assert never.error == "cloudflared ended (exit status 1)"

    now = reading(CloudflaredConnector, registered(0), f"{STAMP} ERR failed to connect connIndex=0")
    now.ended("it ended (SIGKILL)")
    assert not now.is_over
    assert now.error == "it ended (SIGKILL): failed to connect connIndex=0"
    now.started()
    now.ended("it ended (exit status 2)")
    assert now.error == "it ended (exit status 2)"


def test_an_error_is_bounded() -> None:
    now = OutputState((OutputRule(Outcome.FAILED, "no"),))
    now.take("no" * 1000)

    assert len(now.error) == 300


@pytest.mark.parametrize("sign", CONNECTIONS, ids=lambda sign: sign.pattern)
def test_reading_a_hostile_line_takes_no_time(sign: OutputRule) -> None:
    line = "tunnel not token rate failed to connIndex= Connection invalid " * 16
    now = OutputState((sign,))
    started_at = time.process_time()
    for _ in range(100):
        now.take(line[:1000])
    assert time.process_time() - started_at < 1

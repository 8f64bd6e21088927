"""WebSockets through agents in processes of their own, over the embedded relay: the published one
(synth-containers 0.4.6), which does without windows, and this project's."""

import http
import threading
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack
from queue import Queue
from typing import Any
from urllib.parse import quote

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.http11 import Request, Response
from websockets.sync.client import connect
from websockets.sync.server import Server, ServerConnection, serve
from websockets.typing import Subprotocol

from .conftest import Tunnel, agent_process

pytestmark = pytest.mark.interop

closes: "defaultdict[str, Queue[tuple[int | None, str | None]]]" = defaultdict(Queue)
"""How each WebSocket ended, as the app saw it, by path: earlier tests' may still be ending."""


def answer(app: ServerConnection, request: Request) -> Response | None:
    """Answer what is no WebSocket, and refuse one."""
    if request.path == "/refused":
        refusal = app.respond(http.HTTPStatus.FORBIDDEN, "not you\n")
        refusal.headers["X-Why"] = "principle"
        return refusal
    if "Upgrade" not in request.headers:
        return app.respond(http.HTTPStatus.OK, "well\n")
    return None


def handle(app: ServerConnection) -> None:
    """Echo, or end as the path says."""
    assert app.request is not None
    path = app.request.path
    if path == "/close":
        app.close(4001, "as asked")
    elif path == "/close-without-a-code":
        with app.send_context():
            app.protocol.send_close()
    elif path == "/die":
        app.socket.close()
    try:
        for message in app:
            app.send(message)
    except ConnectionClosed:
        pass
    finally:
        closes[path].put((app.protocol.close_code, app.protocol.close_reason))


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    server = serve(
        handle,
        "127.0.0.1",
        0,
        process_request=answer,
        max_size=None,
        subprotocols=[Subprotocol("v2")],
        select_subprotocol=lambda _, offered: "v2" if "v2" in offered else None,
    )
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()


@pytest.fixture(scope="module", params=["published", "own"])
def tunnel(
    request: pytest.FixtureRequest, standalone_backend: dict[str, str], server: Server
) -> Iterator[Tunnel]:
    url = f"http://127.0.0.1:{server.socket.getsockname()[1]}"
    with agent_process(request.param, request, standalone_backend, url) as found:
        yield found


def call(tunnel: Tunnel, path: str = "/", **options: Any) -> connect:
    """Open a WebSocket through the tunnel."""
    return connect(
        tunnel.lease["public_url"].replace("http://", "ws://") + path,
        additional_headers={"Authorization": f"Bearer {tunnel.lease['worker_token']}"},
        max_size=None,
        **options,
    )


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture
def path(request: pytest.FixtureRequest) -> str:
    """A path of this test's own."""
    return f"/{quote(request.node.name)}"


@pytest.mark.parametrize("message", ["héllo", "", b"\x00\xff", b"x" * 200_000, b"x" * (1 << 24)])
def test_messages_come_back(tunnel: Tunnel, message: str | bytes) -> None:
    with call(tunnel) as caller:
        caller.send(message)
        assert caller.recv() == message


def test_a_fragmented_message_comes_back(tunnel: Tunnel) -> None:
    with call(tunnel) as caller:
        caller.send(["", "one ", "", "two ", "three"])
        assert caller.recv() == "one two three"
        caller.send([b"", b"binary ", b"too"])
        assert caller.recv() == b"binary too"


def test_many_at_once(tunnel: Tunnel) -> None:
    with ExitStack() as stack:
        callers = [stack.enter_context(call(tunnel)) for _ in range(16)]
        for number, caller in enumerate(callers):
            caller.send(f"mine is {number}")
        for number, caller in enumerate(callers):
            assert caller.recv(10) == f"mine is {number}"


def test_the_subprotocol_is_the_apps(tunnel: Tunnel) -> None:
    with call(tunnel, subprotocols=[Subprotocol("v1"), Subprotocol("v2")]) as caller:
        assert caller.subprotocol == "v2"
    with call(tunnel, subprotocols=[Subprotocol("v1")]) as caller:
        assert caller.subprotocol is None


def test_a_ping_is_answered(tunnel: Tunnel) -> None:
    with call(tunnel) as caller:
        assert caller.ping(b"payload").wait(10)


@pytest.mark.parametrize(
    ("path", "code", "reason"), [("/close", 4001, "as asked"), ("/close-without-a-code", 1005, "")]
)
def test_the_apps_close_arrives(tunnel: Tunnel, path: str, code: int, reason: str) -> None:
    with call(tunnel, path) as caller:
        with pytest.raises(ConnectionClosed) as caught:
            caller.recv(10)
        assert caught.value.rcvd is not None
        assert (caught.value.rcvd.code, caught.value.rcvd.reason) == (code, reason)


def test_an_app_that_dies_is_1011(tunnel: Tunnel) -> None:
    with call(tunnel, "/die") as caller:
        with pytest.raises(ConnectionClosed):
            caller.recv(10)
        assert caller.protocol.close_code == 1011


def test_the_callers_close_arrives(tunnel: Tunnel, path: str) -> None:
    with call(tunnel, path) as caller:
        caller.close(4002, "enough")
    assert closes[path].get(timeout=10) == (4002, "enough")


def test_a_caller_that_vanishes_is_noticed(tunnel: Tunnel, path: str) -> None:
    with call(tunnel, path) as caller:
        caller.send("last words")
        assert caller.recv(10) == "last words"
        caller.socket.close()
        assert closes[path].get(timeout=10)[0] == 1011


def test_the_apps_refusal_arrives(tunnel: Tunnel) -> None:
    with pytest.raises(InvalidStatus) as caught, call(tunnel, "/refused"):
        pass
    response = caught.value.response
    assert (response.status_code, response.body) == (403, b"not you\n")
    assert response.headers["X-Why"] == "principle"

"""WebSockets to the app of each worker, through a real run."""

import pytest

from .conftest import RuntimeDirectory

pytestmark = pytest.mark.acceptance

WEBSOCKETS = """
import os, threading

import pytest
from websockets.sync.server import serve

def handle(app):
    app.send(f"{os.getpid()} {app.request.path} {app.request.headers['Origin']}")
    for message in app:
        if message == "close":
            app.close(4000, "as asked")
            return
        app.send(message)

@pytest.fixture(scope="session")
def app(exposed_port):
    options = {"max_size": None, "subprotocols": ["v2"]}
    with serve(handle, "127.0.0.1", exposed_port, **options) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield
        server.shutdown()
        thread.join()
"""

UVICORN = """
import os, threading

import pytest, uvicorn

async def handle(scope, receive, send):
    headers = dict(scope["headers"])
    await receive()
    await send({"type": "websocket.accept", "subprotocol": "v2"})
    about = f"{os.getpid()} {scope['path']} {headers[b'origin'].decode()}"
    await send({"type": "websocket.send", "text": about})
    while (event := await receive())["type"] == "websocket.receive":
        if event.get("text") == "close":
            await send({"type": "websocket.close", "code": 4000, "reason": "as asked"})
        else:
            await send({**event, "type": "websocket.send"})

@pytest.fixture(scope="session")
def app(exposed_port):
    config = uvicorn.Config(
        handle, port=exposed_port, log_level="warning", lifespan="off", ws_max_size=1 << 24
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    yield
    server.should_exit = True
    thread.join()
"""

CALLS = """
import os

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

@pytest.fixture
def call(synth_lease, app):
    def call(headers):
        return connect(
            synth_lease.url("/chat").replace("http://", "ws://", 1),
            additional_headers=headers,
            subprotocols=["v1", "v2"],
            origin="https://app.test",
            max_size=None,
        )

    return call

@pytest.mark.parametrize("n", range(4))
def test_messages(synth_lease, call, n):
    with call(synth_lease.headers) as caller:
        assert caller.subprotocol == "v2"
        assert caller.recv(20) == f"{os.getpid()} /chat https://app.test"
        for message in ("text", b"bytes", b"x" * (1 << 24), ["in ", "pieces"]):
            caller.send(message)
            sent = "".join(message) if isinstance(message, list) else message
            assert caller.recv(20) == sent
        assert caller.ping().wait(20)

@pytest.mark.parametrize("n", range(4))
def test_the_end(synth_lease, call, n):
    with call(synth_lease.headers) as caller:
        caller.recv(20)
        caller.send("close")
        with pytest.raises(ConnectionClosed) as caught:
            caller.recv(20)
        assert (caught.value.rcvd.code, caught.value.rcvd.reason) == (4000, "as asked")

def test_without_the_token(call):
    with pytest.raises(InvalidStatus, match="401"), call({}):
        pass

def test_one_is_open_at_the_end_of_the_run(synth_lease, call):
    call(synth_lease.headers).__enter__().recv(20)
"""


@pytest.mark.parametrize("app", [WEBSOCKETS, UVICORN], ids=["websockets", "uvicorn"])
def test_websockets_to_each_worker(
    pytester: pytest.Pytester, runtime: RuntimeDirectory, app: str
) -> None:
    pytester.makeconftest(app)
    pytester.makepyfile(CALLS)

    pytester.runpytest_subprocess("-n", "2").assert_outcomes(passed=10)
    runtime.assert_nothing_left()

"""Flask-SocketIO, by long polling and by a WebSocket."""

import queue
from collections.abc import Iterator
from urllib.parse import urlsplit

import flask
import flask_socketio
import pytest
import socketio
from werkzeug.serving import make_server

from conftest import serving

web = flask.Flask(__name__)
sockets = flask_socketio.SocketIO(web, async_mode="threading")


@sockets.on("say")
def say(text: str) -> None:
    flask_socketio.emit("said", text.upper())


@pytest.fixture(scope="module")
def app(exposed_port: int) -> Iterator[None]:
    with serving(make_server("127.0.0.1", exposed_port, web, threaded=True)):
        yield


@pytest.mark.parametrize("transport", ["polling", "websocket"])
def test_messages_both_ways(url: str, transport: str) -> None:
    said: queue.Queue[str] = queue.Queue()
    with socketio.SimpleClient() as client:
        prefix = urlsplit(url).path
        # A browser: io(url, {path: new URL(url).pathname + "/socket.io"})
        client.connect(url, transports=[transport], socketio_path=f"{prefix}/socket.io")
        for text in ("one", "two"):
            client.emit("say", text)
            event, answer = client.receive(timeout=60)
            assert event == "said"
            said.put(answer)
        assert client.transport == transport
    assert [said.get(timeout=1), said.get(timeout=1)] == ["ONE", "TWO"]

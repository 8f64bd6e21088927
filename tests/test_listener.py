import socket
import sys

import pytest

from pytest_synth_tunnels._unpatched import unpatched
from pytest_synth_tunnels.listener import Listener, can_bind, has_listener, listen


def port_of(listener: Listener) -> int:
    port: int = listener.getsockname()[1]
    return port


class Guard(socket.socket):
    """What replaces `socket.socket` where a test blocks sockets."""

    def __new__(cls, *_: object, **__: object) -> "Guard":
        raise RuntimeError("blocked")


def test_it_accepts_while_sockets_are_blocked(monkeypatch: pytest.MonkeyPatch) -> None:
    with listen(0) as listener, socket.create_connection(listener.getsockname(), 10) as caller:
        monkeypatch.setattr(socket, "socket", Guard)
        connection, address = listener.accept()
        monkeypatch.undo()
        with connection:
            assert type(connection) is socket.socket
            assert address == caller.getsockname()
            caller.sendall(b"x")
            assert connection.recv(1) == b"x"


def test_a_connection_waits_though_its_listener_has_a_timeout() -> None:
    with listen(0) as listener, socket.create_connection(listener.getsockname(), 10):
        listener.settimeout(5)
        connection, _ = listener.accept()
        with connection:
            assert connection.gettimeout() is None


def test_a_port_has_one_listener() -> None:
    with listen(0) as listener, pytest.raises(OSError, match="in use"):
        listen(port_of(listener))


def test_a_port_can_be_listened_on_again_at_once() -> None:
    port = 0
    for _ in range(3):
        with listen(port) as listener:
            port = port_of(listener)
            caller = socket.create_connection(("127.0.0.1", port), 10)
            # The end that closes first is the one that waits in TIME_WAIT.
            listener.accept()[0].close()
            assert caller.recv(1) == b""
            caller.close()


@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux")
@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0", "::"])
def test_whether_a_port_has_a_listener(host: str) -> None:
    family = socket.AF_INET6 if host == "::" else socket.AF_INET
    with socket.socket(family) as server:
        server.bind((host, 0))
        port = server.getsockname()[1]
        assert has_listener(port) is False
        server.listen()
        assert has_listener(port) is True
        with socket.create_connection(("127.0.0.1", port), 10), server.accept()[0] as accepted:
            server.close()
            assert not can_bind(port), "a connection is left"
            assert has_listener(port) is False
            accepted.close()


@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux")
def test_a_sandbox_that_does_not_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr(unpatched, "socket", refuse)

    assert has_listener(1) is None

import socket

import pytest

from pytest_synth_tunnels.listener import Listener, can_bind, listen


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


def test_what_keeps_a_plain_server_from_binding() -> None:
    with listen(0) as listener:
        port = port_of(listener)
        assert not can_bind(port)
        with socket.create_connection(("127.0.0.1", port), 10), listener.accept()[0]:
            listener.close()
            assert not can_bind(port), "a connection is left"

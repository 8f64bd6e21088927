"""What the system knows of the other end, on real sockets."""

import socket
import struct
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from pytest_synth_tunnels.http.sockets import has_ended, has_unread, is_gone, reset

from ..support.manual_loop import Wire

Ends = tuple[Wire, socket.socket, socket.socket]


@pytest.fixture
def ends() -> Iterator[Ends]:
    """A transport's two ends: the transport, its socket, and the other one."""
    with ExitStack() as stack:
        listening = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        far = stack.enter_context(socket.create_connection(listening.getsockname()))
        near = stack.enter_context(listening.accept()[0])
        wire = Wire()
        wire._extra["socket"] = near
        yield wire, near, far


def test_who_is_there_is_not_gone(ends: Ends) -> None:
    wire, near, far = ends
    assert not is_gone(wire)
    assert not has_ended(wire)
    assert not has_unread(wire)
    far.sendall(b"unread")
    near.sendall(b"unread")
    assert not is_gone(wire)
    assert not has_ended(wire)
    assert has_unread(wire)
    assert near.recv(9) == b"unread"


def test_an_end_shows_behind_what_is_not_read(ends: Ends) -> None:
    wire, near, far = ends
    far.sendall(b"unread")
    far.shutdown(socket.SHUT_WR)
    assert has_ended(wire)
    assert not is_gone(wire)  # it may still read
    assert not has_unread(wire)
    assert near.recv(9) == b"unread"


def test_a_reset_shows(ends: Ends) -> None:
    wire, _, far = ends
    far.sendall(b"unread")
    far.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    far.close()
    assert is_gone(wire)
    assert has_ended(wire)


def test_without_a_socket_nobody_is_gone(ends: Ends) -> None:
    wire, near, _ = ends
    near.close()
    for unknown in (Wire(), wire):
        assert not is_gone(unknown)
        assert not has_ended(unknown)
        assert not has_unread(unknown)


def test_reset(ends: Ends) -> None:
    wire, near, far = ends
    reset(wire)
    near.close()
    assert wire.aborted
    with pytest.raises(ConnectionResetError):
        far.recv(1)


def test_reset_without_a_socket(ends: Ends) -> None:
    for wire in (Wire(), ends[0]):
        ends[1].close()
        reset(wire)
        assert wire.aborted

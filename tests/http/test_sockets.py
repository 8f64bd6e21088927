"""What the system knows of the other end, on real sockets."""

import asyncio
import socket
import struct
import sys
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from pytest_synth_tunnels.http.sockets import (
    adopts_sockets,
    connect_at_once,
    has_ended,
    has_unread,
    is_gone,
    make_transport,
    peer_host,
    reset,
)

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


@pytest.mark.parametrize(
    ("peername", "host"),
    [
        (("192.0.2.7", 5), "192.0.2.7"),
        (("::1", 5, 0, 0), "::1"),
        (("::ffff:192.0.2.7", 5, 0, 0), "192.0.2.7"),
        ("", ""),
        (None, ""),
    ],
)
def test_who_is_at_the_other_end(ends: Ends, peername: object, host: str) -> None:
    wire, _, _ = ends
    wire._extra["peername"] = peername
    assert peer_host(wire) == host


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


@pytest.mark.skipif(sys.platform != "linux", reason="others have to wait for it")
def test_a_server_on_this_machine_is_there_at_once() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        address = listening.getsockname()
        near = connect_at_once(socket.AF_INET, address)
        assert near is not None
        with near, listening.accept()[0] as far:
            assert not near.getblocking()
            near.send(b"hello")
            assert far.recv(9) == b"hello"
    with pytest.raises(ConnectionRefusedError):
        connect_at_once(socket.AF_INET, address)


@pytest.mark.skipif(sys.platform != "linux", reason="others have to wait for it")
def test_a_server_that_takes_a_moment_is_left_to_who_can_wait() -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=0) as listening:
        address = listening.getsockname()
        with ExitStack() as stack:
            for _ in range(8):  # its queue is full after a few
                sock = connect_at_once(socket.AF_INET, address)
                if sock is None:
                    break
                stack.enter_context(sock)
            assert sock is None


def test_a_socket_gets_a_transport() -> None:
    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        made: asyncio.Future[asyncio.BaseTransport] = loop.create_future()
        if not adopts_sockets(loop):
            pytest.skip("this event loop has another way inside")

        class Talker(asyncio.Protocol):
            def connection_made(self, transport: asyncio.BaseTransport) -> None:
                made.set_result(transport)

        near, far = socket.socketpair()
        near.setblocking(False)
        with far:
            make_transport(loop, near, Talker())
            transport = await asyncio.wait_for(made, 5)
            assert transport.get_extra_info("socket").fileno() == near.fileno()
            transport.close()
            await asyncio.sleep(0)

    asyncio.run(scenario())

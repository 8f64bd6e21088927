import asyncio
import http.server
import os
import signal
import socket
import socketserver
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from types import SimpleNamespace
from typing import Any

import pytest

from pytest_synth_tunnels.keeper import ports as module
from pytest_synth_tunnels.keeper.ports import (
    PortReservation,
    accepts,
    accepts_blocking,
    clear_time_wait,
    ephemeral_ports,
    is_taken,
)

linux = pytest.mark.skipif(sys.platform != "linux", reason="only there it can be done")


@pytest.fixture
def reservation() -> Iterator[PortReservation]:
    with closing(PortReservation()) as reservation:
        yield reservation


class Plain(socketserver.TCPServer):
    """A server that needs a free port: it sets no SO_REUSEADDR."""

    allow_reuse_address = False


@contextmanager
def bound(port: int, host: str = "127.0.0.1") -> Iterator[None]:
    with socket.socket() as plain:
        plain.bind((host, port))
        yield


SERVERS: dict[str, Callable[[int], Any]] = {
    "TCPServer": lambda port: Plain(("127.0.0.1", port), socketserver.BaseRequestHandler),
    "HTTPServer": lambda port: http.server.HTTPServer(
        ("127.0.0.1", port), http.server.BaseHTTPRequestHandler
    ),
    "bind": bound,
    "bind to all addresses": lambda port: bound(port, ""),
    "create_server": lambda port: socket.create_server(("127.0.0.1", port)),
}


@pytest.mark.parametrize("server", SERVERS)
def test_any_server_binds_a_reserved_port_again_and_again(
    reservation: PortReservation, server: str
) -> None:
    for _ in range(3):
        with SERVERS[server](reservation.port):
            pass


def test_the_kernel_gives_a_reserved_port_to_nobody(reservation: PortReservation) -> None:
    assert reservation.port not in ephemeral_ports()


@linux
def test_the_ephemeral_ports_are_the_kernel_s() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        assert free.getsockname()[1] in ephemeral_ports()


def test_no_two_reservations_have_one_port() -> None:
    reservations = [PortReservation() for _ in range(300)]
    try:
        assert len({reservation.port for reservation in reservations}) == 300
    finally:
        for reservation in reservations:
            reservation.close()


def test_a_port_that_another_keeper_holds_or_a_server_listens_on_is_left_out(
    reservation: PortReservation, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("", 0)) as server:
        ports = [reservation.port, server.getsockname()[1]]
        monkeypatch.setattr(module, "_candidates", lambda _: iter(ports))

        with pytest.raises(OSError, match="all ports that an app could have are in use"):
            PortReservation()


def test_a_lock_ends_with_its_process(monkeypatch: pytest.MonkeyPatch) -> None:
    code = (
        "from pytest_synth_tunnels.keeper.ports import PortReservation\n"
        "reservation = PortReservation(); print(reservation.port, flush=True); input()"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None
    assert holder.stdin is not None
    with holder, holder.stdin, holder.stdout:
        port = int(holder.stdout.readline())
        monkeypatch.setattr(module, "_candidates", lambda _: iter([port]))
        with pytest.raises(OSError, match="in use"):
            PortReservation()
        holder.send_signal(signal.SIGKILL if os.name == "posix" else signal.SIGTERM)
        holder.wait()

        with closing(PortReservation()) as reservation:
            assert reservation.port == port


def test_where_all_ports_are_ephemeral_it_is_free_and_locked() -> None:
    everything = range(1, 65_536)
    reservations = [PortReservation(everything) for _ in range(20)]
    try:
        assert len({reservation.port for reservation in reservations}) == 20
        for reservation in reservations:
            with bound(reservation.port):
                pass
    finally:
        for reservation in reservations:
            reservation.close()


def test_ports_above_the_ephemeral_ones_come_first() -> None:
    candidates = list(module._candidates(range(32_768, 61_000)))

    assert all(port >= 61_000 for port in candidates[:4_000])
    assert len(candidates) == len(set(candidates))
    assert all(20_000 <= port < 65_536 for port in candidates)
    assert 27017 not in candidates


def leave_time_wait(port: int, host: str = "127.0.0.1", *, reusable: bool = False) -> None:
    """Serve some connections, each of which the server closes first."""
    server = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    with server:
        if ":" in host:
            server.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        if reusable:
            server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        server.bind((host, port))
        server.listen()
        for _ in range(3):
            with socket.create_connection(("127.0.0.1", port)) as client:
                server.accept()[0].close()
                assert client.recv(1) == b""


@linux
@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0", "::"])
def test_a_port_in_time_wait_is_made_free(reservation: PortReservation, host: str) -> None:
    if host == "::" and not socket.has_ipv6:
        pytest.skip("no IPv6")
    leave_time_wait(reservation.port, host)
    with pytest.raises(OSError, match="in use"), bound(reservation.port):
        pass

    clear_time_wait(reservation.port)

    with bound(reservation.port):
        pass


@linux
def test_a_connection_that_is_about_to_be_closed_is_waited_for(
    reservation: PortReservation, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", reservation.port)) as server:
        client = socket.create_connection(("127.0.0.1", reservation.port))
        server.accept()[0].close()

    def sleep(pause_s: float) -> None:
        client.close()
        time.sleep(pause_s)  # a busy kernel needs a moment until the server's end knows it

    monkeypatch.setattr(module, "time", SimpleNamespace(sleep=sleep))

    clear_time_wait(reservation.port)

    with bound(reservation.port):
        pass


@linux
def test_a_server_that_listens_is_left_alone(reservation: PortReservation) -> None:
    leave_time_wait(reservation.port, reusable=True)
    with socket.create_server(("127.0.0.1", reservation.port)) as server:
        server.setblocking(False)
        clear_time_wait(reservation.port)

        with pytest.raises(BlockingIOError):
            server.accept()


def test_a_free_port_needs_no_clearing(reservation: PortReservation) -> None:
    clear_time_wait(reservation.port)


@linux
def test_a_server_can_bind_a_port_while_it_is_cleared(
    reservation: PortReservation, monkeypatch: pytest.MonkeyPatch
) -> None:
    leave_time_wait(reservation.port, reusable=True)
    bound_ports = []
    bind = socket.socket.bind

    def note(self: socket.socket, address: Any) -> None:
        bound_ports.append(address[1])
        bind(self, address)

    monkeypatch.setattr(module.socket, "socket", type("Noted", (socket.socket,), {"bind": note}))
    clear_time_wait(reservation.port)
    clear_time_wait(reservation.port)

    assert bound_ports
    assert reservation.port not in bound_ports


def test_nothing_listens_on_a_reserved_port(reservation: PortReservation) -> None:
    assert not asyncio.run(accepts("127.0.0.1", reservation.port, 5.0))
    assert not accepts_blocking("127.0.0.1", reservation.port, 5.0)
    assert not is_taken(reservation.port)
    with socket.create_server(("127.0.0.1", reservation.port)):
        assert is_taken(reservation.port)
        assert asyncio.run(accepts("127.0.0.1", reservation.port, 5.0))
        assert accepts_blocking("127.0.0.1", reservation.port, 5.0)


def test_accepts_gives_up_in_time() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        # Fill the backlog, so that the kernel drops further attempts.
        clients = [socket.socket() for _ in range(4)]
        for client in clients:
            client.setblocking(False)
            client.connect_ex(listener.getsockname())
        try:
            assert not asyncio.run(accepts("127.0.0.1", listener.getsockname()[1], 0.1))
        finally:
            for client in clients:
                client.close()

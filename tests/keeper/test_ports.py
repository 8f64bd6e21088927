import asyncio
import http.server
import socket
import sys

import pytest

from pytest_synth_tunnels.keeper.ports import PortReservation, accepts, is_taken

linux = pytest.mark.skipif(sys.platform != "linux", reason="only Linux can hold a port")


@linux
def test_no_reservation_is_given_the_port_of_another() -> None:
    reservations = [PortReservation() for _ in range(300)]
    try:
        assert len({r.port for r in reservations}) == 300
        with socket.socket() as other:
            other.bind(("127.0.0.1", 0))
            assert other.getsockname()[1] not in {r.port for r in reservations}
    finally:
        for reservation in reservations:
            reservation.close()


@linux
def test_a_usual_server_binds_over_it_again_and_again() -> None:
    reservation = PortReservation()
    handler = http.server.BaseHTTPRequestHandler
    try:
        for _ in range(3):
            assert not is_taken(reservation.port)
            with http.server.HTTPServer(("127.0.0.1", reservation.port), handler):
                assert is_taken(reservation.port)
                assert asyncio.run(accepts("127.0.0.1", reservation.port, 5.0))
    finally:
        reservation.close()


@linux
def test_nothing_listens_on_a_reserved_port() -> None:
    reservation = PortReservation()
    try:
        assert not asyncio.run(accepts("127.0.0.1", reservation.port, 5.0))
    finally:
        reservation.close()
    reservation.close()


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

import socket
import sys

import pytest

from pytest_synth_tunnels._unpatched import unpatched
from pytest_synth_tunnels.socket_table import (
    TIME_WAIT,
    has_listener,
    has_loopback_listener,
    sockets_on,
)

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the table is Linux's")


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0", "::1", "::"])
def test_who_listens_is_seen(host: str) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        server = socket.create_server((host, 0), family=family)
    except OSError:
        pytest.skip("no IPv6 here")
    port = server.getsockname()[1]
    with server:
        assert has_listener(port)
    assert not has_listener(port)


def test_a_bound_socket_does_not_listen() -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        assert not has_listener(bound.getsockname()[1])


def test_all_connections_in_a_state_with_both_ends() -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=300) as server:
        port = server.getsockname()[1]
        remote_ports = []
        for _ in range(300):  # more than one answer of the kernel holds
            with socket.create_connection(("127.0.0.1", port)) as client:
                remote_ports.append(client.getsockname()[1])
                server.accept()[0].close()
                assert client.recv(1) == b""

    found = sockets_on(port, TIME_WAIT)

    assert {entry[:3] for entry in found} == {("127.0.0.1", port, "127.0.0.1")}
    assert sorted(entry.remote_port for entry in found) == sorted(remote_ports)


def test_a_kernel_that_does_not_answer_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pytest_synth_tunnels.socket_table._SOCK_DIAG_BY_FAMILY", 99)

    with pytest.raises(OSError, match="does not list its sockets"):
        has_listener(1)


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0", "::"])
def test_who_listens_on_loopback_is_found_at_once(host: str) -> None:
    family = socket.AF_INET6 if host == "::" else socket.AF_INET
    with socket.socket(family) as server:
        server.bind((host, 0))
        port = server.getsockname()[1]
        assert has_loopback_listener(port) is False
        server.listen()
        assert has_loopback_listener(port) is True
        with socket.create_connection(("127.0.0.1", port), 10), server.accept()[0] as accepted:
            server.close()
            assert has_loopback_listener(port) is False, "only a connection is left"
            accepted.close()


def test_a_sandbox_that_refuses_to_ask_the_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr(unpatched, "socket", refuse)

    assert has_loopback_listener(1) is None


def test_an_answer_that_is_another_error_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pytest_synth_tunnels.socket_table._SOCK_DIAG_BY_FAMILY", 99)

    assert has_loopback_listener(1) is None

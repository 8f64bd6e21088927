"""Which address and which host the settings mean, on a machine that the tests make up."""

import socket
import sys
from typing import Any

import pytest

from pytest_synth_tunnels.backend import binding as binding_module
from pytest_synth_tunnels.backend.binding import Binding, netloc, resolve_binding


@pytest.mark.parametrize(
    ("bind", "public_host", "binding"),
    [
        ("127.0.0.1", None, Binding()),
        ("localhost", None, Binding()),
        ("172.17.0.1", None, Binding("172.17.0.1", "172.17.0.1")),
        ("172.17.0.1", "host.test", Binding("172.17.0.1", "host.test")),
        ("0.0.0.0", "host.test", Binding("0.0.0.0", "host.test")),
        ("[::1]", None, Binding("::1", "::1")),
        ("0:0:0:0:0:0:0:0", "[2001:db8::5]", Binding("::", "2001:db8::5")),
    ],
)
def test_an_address(bind: str, public_host: str | None, binding: Binding) -> None:
    assert resolve_binding(bind, public_host) == binding


@pytest.mark.parametrize(
    ("binding", "is_exposed", "near"),
    [
        (Binding(), False, "127.0.0.1"),
        (Binding("127.0.0.2"), False, "127.0.0.2"),
        (Binding("::1"), False, "::1"),
        (Binding("0.0.0.0"), True, "127.0.0.1"),
        (Binding("172.17.0.1"), True, "172.17.0.1"),
    ],
)
def test_who_reaches_it(binding: Binding, is_exposed: bool, near: str) -> None:
    assert (binding.is_exposed, binding.near_address) == (is_exposed, near)


@pytest.mark.parametrize(("dual", "near"), [(True, "127.0.0.1"), (False, "::1")])
def test_one_socket_for_both_protocols(
    dual: bool, near: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socket, "has_dualstack_ipv6", lambda: dual)
    assert Binding("::").near_address == near


@pytest.mark.skipif(sys.platform != "linux", reason="interfaces are named on Linux alone")
def test_an_interface() -> None:
    assert resolve_binding("lo") == Binding("127.0.0.1", "127.0.0.1")
    with pytest.raises(ValueError, match=r"'docker7' is neither .* this machine, which has .*lo"):
        resolve_binding("docker7")


@pytest.mark.skipif(sys.platform != "linux", reason="interfaces are named on Linux alone")
def test_an_interface_without_an_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "if_nameindex", lambda: [(9, "no0")])
    with pytest.raises(ValueError, match="has no IPv4 address"):
        resolve_binding("no0")


def test_interfaces_where_the_system_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(binding_module.sys, "platform", "darwin")
    with pytest.raises(ValueError, match="can be named on Linux alone"):
        resolve_binding("en0")


def test_an_address_that_no_url_can_name() -> None:
    with pytest.raises(ValueError, match="link-local"):
        resolve_binding("fe80::1")


class Routes:
    """Stands in for sockets on a machine with these routes, by protocol."""

    def __init__(self, routes: dict[int, str]) -> None:
        self.routes = routes

    def __call__(self, family: int, kind: int) -> Any:
        self.family = family
        return self

    def __enter__(self) -> Any:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def connect(self, address: tuple[str, int]) -> None:
        if self.family not in self.routes:
            raise OSError(101, "Network is unreachable")

    def getsockname(self) -> tuple[str, int]:
        return self.routes[self.family], 1


@pytest.mark.parametrize(
    ("routes", "host"),
    [
        ({socket.AF_INET: "192.0.2.9", socket.AF_INET6: "2001:db8::9"}, "192.0.2.9"),
        ({socket.AF_INET6: "2001:db8::9"}, "2001:db8::9"),
        ({}, "this-machine"),
    ],
)
@pytest.mark.parametrize("bind", ["0.0.0.0", "::"])
def test_all_addresses_are_named_by_the_one_that_others_see(
    bind: str, routes: dict[int, str], host: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socket, "socket", Routes(routes))
    monkeypatch.setattr(socket, "gethostname", lambda: "this-machine")
    assert resolve_binding(bind) == Binding(bind, host)


@pytest.mark.parametrize(
    ("host", "port", "scheme", "shown"),
    [
        ("a.test", 8000, "http", "a.test:8000"),
        ("a.test", 80, "http", "a.test"),
        ("a.test", 443, "https", "a.test"),
        ("a.test", 443, "http", "a.test:443"),
        ("::1", 8000, "http", "[::1]:8000"),
    ],
)
def test_a_host_with_its_port(host: str, port: int, scheme: str, shown: str) -> None:
    assert netloc(host, port, scheme) == shown

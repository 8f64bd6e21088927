"""A pytest plugin that sends what a client library's own tests send through a tunnel.

The suites stay as they are published. Each starts servers of its own and asks them for their
address; here that address is one of the tunnel, at the root of an origin or below a path. Servers
that speak TLS stay as they are: the tunnel ends no TLS.
"""

import json
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest

WAY = os.environ.get("CLIENT_SUITES_WAY", "direct")
"""Or ``root``, ``path``."""

REPORT = os.environ.get("CLIENT_SUITES_REPORT")


class Tunnels:
    """An address for each port of this machine, made when it is asked for."""

    def __init__(self, expose: Callable[..., Any]) -> None:
        self._expose = expose
        self._leases: dict[int, Any] = {}

    def url(self, port: int) -> str:
        """Return the public URL of a port, without a slash at its end."""
        if port not in self._leases:
            options = {"url_style": WAY, "require_token": False}
            if WAY == "path":
                options["host_header"] = "public"
            self._leases[port] = self._expose(port, **options)
        return str(self._leases[port].public_url)

    def port(self, port: int) -> int:
        """Return the port of an origin that leads to a port."""
        return int(self.url(port).rpartition(":")[2])

    def close(self, port: int) -> None:
        """Close the address of a server that stopped."""
        lease = self._leases.pop(port, None)
        if lease is not None:
            lease.close()


@pytest.fixture(scope="session", autouse=WAY != "direct")
def tunnelled(synth_expose: Callable[..., Any]) -> Iterator[None]:
    """Give the servers that the suite has addresses of the tunnel."""
    tunnels = Tunnels(synth_expose)
    with pytest.MonkeyPatch.context() as patch:
        for name, redirect in SERVERS.items():
            module = sys.modules.get(name)
            if module is not None:
                redirect(module, tunnels, patch)
        yield


def _httpbin(module: Any, tunnels: Tunnels, patch: pytest.MonkeyPatch) -> None:
    """Redirect pytest-httpbin's server, which requests' tests ask."""
    direct = module.Server.url.fget

    def url(self: Any) -> str:
        return tunnels.url(self.port) if self.protocol == "http" else str(direct(self))

    patch.setattr(module.Server, "url", property(url))


def _requests(module: Any, tunnels: Tunnels, patch: pytest.MonkeyPatch) -> None:
    """Redirect the scripted server of requests' tests: a socket that answers what it was told."""
    enter, leave = module.Server.__enter__, module.Server.__exit__

    def redirected_enter(self: Any) -> tuple[str, int]:
        host, port = enter(self)
        return (host, tunnels.port(port)) if type(self) is module.Server else (host, port)

    def redirected_leave(self: Any, *raised: Any) -> Any:
        tunnels.close(self.port)
        return leave(self, *raised)

    if WAY == "root":  # the tests put host and port together
        patch.setattr(module.Server, "__enter__", redirected_enter)
        patch.setattr(module.Server, "__exit__", redirected_leave)


def _httpx(module: Any, tunnels: Tunnels, patch: pytest.MonkeyPatch) -> None:
    """Redirect the uvicorn of httpx's tests."""
    import httpx

    def url(self: Any) -> httpx.URL:
        return httpx.URL(tunnels.url(self.config.port) + "/")

    patch.setattr(module.TestServer, "url", property(url))


SERVERS: dict[str, Callable[[Any, Tunnels, pytest.MonkeyPatch], None]] = {
    "pytest_httpbin.serve": _httpbin,
    "tests.testserver.server": _requests,
    "tests.conftest": lambda module, *rest: (
        _httpx(module, *rest) if hasattr(module, "TestServer") else None
    ),
}


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Note each outcome for ``client_suites.py``."""
    if REPORT and (report.when == "call" or report.outcome != "passed"):
        with open(REPORT, "a") as file:
            file.write(json.dumps([report.nodeid, report.outcome]) + "\n")

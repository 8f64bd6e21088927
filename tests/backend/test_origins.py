"""Origins over real sockets: what comes to a port of a lease's own, and which ports there are."""

import asyncio
import re
import socket
from typing import Any
from urllib.parse import urlsplit

import pytest

from pytest_synth_tunnels.backend import origins as origins_module
from pytest_synth_tunnels.backend.binding import LOOPBACK, Binding
from pytest_synth_tunnels.backend.origins import Origins
from pytest_synth_tunnels.http.exchange import IGNORE
from pytest_synth_tunnels.http.server import HttpServer
from pytest_synth_tunnels.relay.ingress import Ingress
from pytest_synth_tunnels.relay.relay import Relay
from pytest_synth_tunnels.relay.route import Limits, Route
from pytest_synth_tunnels.sdk import requests
from pytest_synth_tunnels.sdk.errors import TunnelExpiredError, TunnelUnavailableError

from ..support.live_tunnels import Lease, Tunnels, run, statuses


def port_of(url: str) -> int:
    parts = urlsplit(url)
    assert (parts.scheme, parts.hostname, parts.path) == ("http", LOOPBACK, "")
    return parts.port or 0


async def send(url: str, request: str) -> bytes:
    """Send a request on a connection of its own, and return all that comes back."""
    reader, writer = await asyncio.open_connection(LOOPBACK, port_of(url))
    try:
        writer.write(request.replace("\n", "\r\n").encode("latin-1"))
        return await reader.read()
    finally:
        writer.close()


def get(lease: Lease, path: str = "/", *lines: str) -> str:
    head = [f"GET {path} HTTP/1.1", "Host: app.test:1234", "Connection: close", *lines]
    return "\n".join([*head, f"X-SynthTunnel-Worker-Token: {lease.worker_token}", "", ""])


async def url_of(tunnels: Tunnels, lease_id: str, address: str = "") -> str:
    """Open an origin; return its URL."""
    return (await tunnels.backend.open_origin(lease_id, address)).public_url


def listens(url: str) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((LOOPBACK, port_of(url))) == 0


@pytest.mark.parametrize("websocket", [False, True])
def test_the_app_answers_at_the_root(websocket: bool) -> None:
    async def scenario(tunnels: Tunnels) -> None:
        app = await tunnels.app("app")
        lease = tunnels.lease(app.port)
        url = await url_of(tunnels, lease.id)
        await tunnels.attach(lease, {"": app.port}, websocket=websocket, origins={"": url})
        assert port_of(url) != tunnels.port

        answer = await send(url, get(lease, "/a%2Fb//c?x=1", "X-Forwarded-Prefix: /forged"))

        assert answer.endswith(b"\r\n\r\napp /a%2Fb//c?x=1")
        (seen,) = app.seen
        assert seen.get("x-forwarded-prefix") == []
        assert seen.get("host") == seen.get("x-forwarded-host") == ["app.test:1234"]
        assert seen.get("x-synthtunnel-lease-id") == [lease.id]
        assert seen.get("x-synthtunnel-worker-token") == []

    run(scenario)


def test_the_backend_itself_is_not_there() -> None:
    async def scenario(tunnels: Tunnels) -> None:
        app, lease = await tunnels.serving("app")
        url = await url_of(tunnels, lease.id)
        for path in ("/v1/tunnels/", lease.prefix, "/api/v1/synthtunnel/agent"):
            await send(url, get(lease, path))
        assert [seen.target for seen in app.seen] == [
            "/v1/tunnels/",
            lease.prefix,
            "/api/v1/synthtunnel/agent",
        ]

    run(scenario)


def test_the_token_is_asked_for() -> None:
    async def scenario(tunnels: Tunnels) -> None:
        app, lease = await tunnels.serving("app")
        url = await url_of(tunnels, lease.id)
        without = "GET / HTTP/1.1\nHost: a\nConnection: close\n"
        assert statuses(await send(url, f"{without}\n")) == [401]
        assert statuses(await send(url, f"{without}X-SynthTunnel-Worker-Token: wt_no\n\n")) == [401]
        assert app.seen == []
        opened, free = await tunnels.serving("open", metadata={"require_token": False})
        url = await url_of(tunnels, free.id)
        assert statuses(await send(url, f"{without}\n")) == [200]
        assert len(opened.seen) == 1

    run(scenario)


def test_each_address_has_its_own() -> None:
    async def scenario(tunnels: Tunnels) -> None:
        one, two = await tunnels.app("one"), await tunnels.app("two")
        lease = tunnels.lease(one.port)
        await tunnels.attach(lease, {"gw0": one.port, "gw1": two.port}, websocket=False)
        urls = [await url_of(tunnels, lease.id, address) for address in ("gw0", "gw1")]
        assert len({port_of(url) for url in urls}) == 2
        assert await url_of(tunnels, lease.id, "gw1") == urls[1]

        assert (await send(urls[0], get(lease, "/x"))).endswith(b"one /x")
        assert (await send(urls[1], get(lease, "/~gw0/x"))).endswith(b"two /~gw0/x")

    run(scenario)


def test_after_the_lease_it_answers_410() -> None:
    async def scenario(tunnels: Tunnels) -> None:
        app, lease = await tunnels.serving("app")
        url = await url_of(tunnels, lease.id)
        tunnels.backend.call(requests.close_synth_lease(lease.id))

        answer = await send(url, get(lease))

        assert statuses(answer) == [410]
        assert b"the lease was closed" in answer
        assert app.seen == []
        with pytest.raises(TunnelExpiredError):
            await url_of(tunnels, lease.id, "gw7")
        with pytest.raises(TunnelExpiredError):
            await url_of(tunnels, "synth_unknown")

    run(scenario)


def test_it_ends_with_the_backend() -> None:
    async def test() -> str:
        async with Tunnels() as tunnels:
            _, lease = await tunnels.serving("app")
            url = await url_of(tunnels, lease.id)
            assert listens(url)
            kept = await asyncio.open_connection(LOOPBACK, port_of(url))
        assert await kept[0].read() == b""
        kept[1].close()
        return url

    assert not listens(asyncio.run(test()))


class Ports:
    """Origins of a relay without agents."""

    def __init__(self, **settings: Any) -> None:
        loop = asyncio.get_running_loop()
        self.relay = Relay(loop=loop)
        self.http = HttpServer(lambda _: IGNORE, loop=loop)
        self.origins = Origins(Ingress(self.relay), self.http, **settings)

    async def open(self, route: Route, address: str, *, permanent: bool) -> str:
        """Open an origin; return its URL."""
        return (await self.origins.open(route, address, permanent=permanent)).public_url

    def route(self, name: str) -> Route:
        route = Route(lease_id=name, route_token=f"rt_{name}", agent_token=f"at_{name}")
        self.relay.add(route)
        return route


def with_ports(test: Any, **settings: Any) -> None:
    async def main() -> None:
        ports = Ports(**settings)
        try:
            await test(ports)
        finally:
            ports.origins.close_all()
            ports.http.close()
            ports.relay.shut_down()

    asyncio.run(main())


def test_the_oldest_temporary_one_makes_room() -> None:
    async def test(ports: Ports) -> None:
        route = ports.route("l")
        worker = await ports.open(route, "gw0", permanent=True)
        first = await ports.open(route, "t1", permanent=False)
        second = await ports.open(route, "t2", permanent=False)

        third = await ports.open(route, "t3", permanent=False)

        assert [listens(url) for url in (worker, first, second, third)] == [True, False, True, True]

    with_ports(test, max_origins=3)


def test_one_whose_lease_is_over_makes_room_first() -> None:
    async def test(ports: Ports) -> None:
        test_address = await ports.open(ports.route("a"), "t1", permanent=False)
        over = await ports.open(ports.route("b"), "", permanent=True)
        ports.relay.close("b", "it was closed")

        new = await ports.open(ports.route("c"), "", permanent=True)

        assert [listens(url) for url in (test_address, over, new)] == [True, False, True]

    with_ports(test, max_origins=2)


def test_few_allowed_files_mean_few_origins(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(ports: Ports) -> None:
        route = ports.route("l")
        urls = [await ports.open(route, f"t{i}", permanent=False) for i in range(3)]

        assert [listens(url) for url in urls] == [False, True, True]

    monkeypatch.setattr(origins_module, "open_files_allowed", lambda: 3)
    with_ports(test)


def test_permanent_ones_of_live_leases_stay() -> None:
    async def test(tunnels: Tunnels) -> None:
        _, lease = await tunnels.serving("app")
        origins = tunnels.backend._running.origins
        origins._max_origins = 1
        url = await url_of(tunnels, lease.id)
        with pytest.raises(TunnelUnavailableError, match="close some leases"):
            await url_of(tunnels, lease.id, "gw1")
        assert listens(url)

    run(test)


def test_a_port_is_used_again_as_late_as_possible() -> None:
    async def test(ports: Ports) -> None:
        route = ports.route("l")
        seen = [await ports.open(route, f"t{n}", permanent=False) for n in range(500)]
        assert len(set(seen)) == len(seen)

    with_ports(test, max_origins=2)


def test_without_a_fresh_port_the_one_closed_longest_ago_is_used() -> None:
    async def test(ports: Ports) -> None:
        retired = ports.origins._retired
        retired.update(dict.fromkeys(range(1, 65_536)))

        url = await ports.open(ports.route("l"), "", permanent=True)

        assert port_of(url) not in retired
        assert len(retired) == 65_534
        assert listens(url)

    with_ports(test)


def test_a_machine_that_lets_nobody_listen(monkeypatch: pytest.MonkeyPatch) -> None:
    class Full:
        def __init__(self, *_: Any) -> None:
            raise OSError(24, "Too many open files")

    async def test(tunnels: Tunnels) -> None:
        _, lease = await tunnels.serving("app")
        with monkeypatch.context() as patch:
            patch.setattr("pytest_synth_tunnels.backend.binding.socket.socket", Full)
            with pytest.raises(TunnelUnavailableError, match="Too many open files"):
                await url_of(tunnels, lease.id)
        assert listens(await url_of(tunnels, lease.id))

    run(test)


def test_callers_of_all_origins_count_together() -> None:
    async def test() -> None:
        async with Tunnels(limits=Limits(max_unauthenticated_connections=2)) as tunnels:
            _, lease = await tunnels.serving("app")
            urls = [await url_of(tunnels, lease.id, name) for name in ("a", "b")]
            opened = [await asyncio.open_connection(LOOPBACK, port_of(urls[0])) for _ in range(2)]

            assert statuses(await send(urls[1], get(lease))) == [503]

            for _, writer in opened:
                writer.close()

    asyncio.run(test())


def test_one_that_is_closed_takes_its_own_connections_along() -> None:
    async def test(ports: Ports) -> None:
        route = ports.route("l")
        urls = [await ports.open(route, name, permanent=False) for name in ("t1", "t2")]
        ends = [await asyncio.open_connection(LOOPBACK, port_of(url)) for url in urls]
        while len(ports.http.limiter.connections) < 2:  # noqa: ASYNC110
            await asyncio.sleep(0)

        await ports.open(route, "t3", permanent=False)

        assert await ends[0][0].read() == b""
        assert len(ports.http.limiter.connections) == 1
        for _, writer in ends:
            writer.close()

    with_ports(test, max_origins=2)


# Origins that others than this machine reach.


def at(url: str) -> tuple[str, int, str]:
    parts = urlsplit(url)
    return parts.hostname or "", parts.port or 80, parts.path


async def ask(url: str, path: str, *lines: str, host: str = "app.test:1234") -> bytes:
    """GET a path below a URL of this machine, and return all that comes back."""
    address, port, prefix = at(url)
    reader, writer = await asyncio.open_connection(address, port)
    try:
        head = [f"GET {prefix}{path} HTTP/1.1", f"Host: {host}", "Connection: close", *lines]
        writer.write("\r\n".join([*head, "", ""]).encode())
        return await reader.read()
    finally:
        writer.close()


def with_binding(test: Any, binding: Binding) -> None:
    async def main() -> None:
        async with asyncio.timeout(30), Tunnels(binding=binding) as tunnels:
            await test(tunnels)

    asyncio.run(main())


def test_urls_name_the_public_host_and_the_control_plane_stays_on_loopback() -> None:
    async def test(tunnels: Tunnels) -> None:
        app = await tunnels.app("app")
        lease = tunnels.lease(app.port)
        origin = await tunnels.backend.open_origin(lease.id)
        origins = {"": origin.public_url}
        await tunnels.attach(lease, {"": app.port}, websocket=False, origins=origins)
        host, port, path = at(origin.public_url)
        assert (host, path) == ("host.docker.internal", "")
        assert at(origin.loopback_url) == (LOOPBACK, port, "")
        assert (origin.listens_on, origin.secret_path) == (f"0.0.0.0:{port}", "")
        assert at(tunnels.backend.url)[0] == LOOPBACK

        token = f"X-SynthTunnel-Worker-Token: {lease.worker_token}"
        assert statuses(await ask(origin.loopback_url, "/x", host=f"{host}:{port}")) == [401]
        answer = await ask(origin.loopback_url, "/x", token, host=f"{host}:{port}")

        assert answer.endswith(b"app /x")
        assert app.seen[0].get("host") == [f"host.docker.internal:{port}"]

    with_binding(test, Binding("0.0.0.0", "host.docker.internal"))


def test_without_a_token_the_url_has_a_path_that_nobody_can_guess() -> None:
    async def test(tunnels: Tunnels) -> None:
        app = await tunnels.app("app")
        lease = tunnels.lease(app.port, metadata={"require_token": False})
        other = tunnels.lease(app.port, metadata={"require_token": False})
        opened = [await tunnels.backend.open_origin(lease.id, name) for name in ("", "gw1")]
        origins = dict(zip(("", "gw1"), [each.public_url for each in opened], strict=True))
        ports = {"": app.port, "gw1": app.port}
        await tunnels.attach(lease, ports, websocket=False, origins=origins)
        for origin in opened:
            path = origin.secret_path
            assert re.fullmatch(r"/u_[\w-]{22}", path)
            assert origin.public_url.endswith(path)
            assert origin.loopback_url.endswith(path)
            assert (await ask(origin.loopback_url, "/x?y")).endswith(b"app /x?y")
            assert (await ask(origin.loopback_url, "")).endswith(b"app /")
            assert app.seen[-1].get("x-forwarded-prefix") == [path]
            seen = len(app.seen)
            root = origin.loopback_url.removesuffix(path)
            for wrong in (
                "/",
                "/x",
                path[:-1],
                f"{path}x/y",
                f"/x{path}/",
                path.upper(),
                "/u_\u00e9",
            ):
                assert statuses(await ask(root, wrong)) == [404]
            assert statuses(await ask(root, "*")) == [404]
            assert len(app.seen) == seen
        assert (await tunnels.backend.open_origin(other.id)).secret_path != opened[0].secret_path

    with_binding(test, Binding("0.0.0.0", "host.docker.internal"))


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="this machine has no IPv6")
@pytest.mark.parametrize(
    ("address", "by"),
    [("::1", {"::1": "::1"}), ("::", {"::1": "::1", "127.0.0.1": "127.0.0.1"})],
)
def test_ipv6(address: str, by: dict[str, str]) -> None:
    async def test(tunnels: Tunnels) -> None:
        app = await tunnels.app("app")
        lease = tunnels.lease(app.port)
        origin = await tunnels.backend.open_origin(lease.id)
        _, port, _ = at(origin.public_url)
        assert origin.public_url == f"http://[{address}]:{port}"
        origins = {"": origin.public_url}
        await tunnels.attach(lease, {"": app.port}, websocket=False, origins=origins)
        for target, peer in by.items():
            shown = f"[{target}]" if ":" in target else target
            token = f"X-SynthTunnel-Worker-Token: {lease.worker_token}"
            answer = await ask(f"http://{shown}:{port}", "/x", token)
            assert answer.endswith(b"app /x")
            assert app.seen[-1].get("x-forwarded-for") == [peer]
        assert at(origin.loopback_url)[0] in by

    with_binding(test, Binding(address, address))


def test_a_port_that_was_chosen() -> None:
    async def test(tunnels: Tunnels) -> None:
        app = await tunnels.app("app")
        lease = tunnels.lease(app.port)
        with socket.socket() as taken:
            taken.bind((LOOPBACK, 0))
            taken.listen()
            port = taken.getsockname()[1]
            with pytest.raises(
                TunnelUnavailableError,
                match="Another program has this port",
            ):
                await tunnels.backend.open_origin(lease.id, port=port)

        origin = await tunnels.backend.open_origin(lease.id, port=port)

        assert origin.public_url == f"http://{LOOPBACK}:{port}"
        assert origin.listens_on == ""

    run(test)


def test_an_address_that_is_not_this_machine_s() -> None:
    async def test(tunnels: Tunnels) -> None:
        lease = tunnels.lease(8000)
        with pytest.raises(TunnelUnavailableError, match="must name an address of this machine"):
            await tunnels.backend.open_origin(lease.id)

    with_binding(test, Binding("192.0.2.1", "192.0.2.1"))

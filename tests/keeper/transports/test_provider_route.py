"""The route of a managed lease: its public URL, its path and its headers."""

import asyncio
import time
from typing import Any
from urllib.parse import urlsplit

import pytest

from pytest_synth_tunnels.agent.target import Target

from ...support.managed_leases import (
    FakeConnector,
    ManagedLeases,
    OwnUrlConnector,
    ask,
    failure_of,
    run,
    serve,
)


@pytest.mark.parametrize("prefix", ["", "/", None])
def test_a_lease_without_a_prefix(prefix: str | None) -> None:
    async def scenario(managed: ManagedLeases) -> None:
        managed.backend.changes = {"route_prefix": prefix, "hostname": None}
        lease = managed.lease("public")
        async with await serve(lease):
            await lease.ready()
            url = lease.url("")
            origin, _, secret = url.removeprefix("http://").partition("/")
            assert len(secret) == 32
            assert await ask(f"{url}/x") == (200, b"app /x")
            assert (await ask(f"http://{origin}/x"))[0] == 404
            assert (await ask(f"http://{origin}/__synth/ready"))[0] == 200
            await lease.release(5)

    run(scenario)


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"public_url": None, "hostname": None}, "neither a public_url nor a hostname"),
        ({"gateway_port": 70_000}, "cannot be used: Expected `int` <= 65535"),
        ({"expires_at": None}, "a lease that cannot be used"),
        ({"expires_at": "soon"}, "a lease that cannot be used"),
        ({"lease_id": None}, "a lease without an id"),
    ],
)
def test_a_lease_that_lacks_something(change: dict[str, Any], part: str) -> None:
    async def scenario(managed: ManagedLeases) -> None:
        managed.backend.changes = change
        assert part in (await failure_of(managed.lease())).message

    run(scenario)


def test_a_public_lease_has_an_unguessable_path_and_is_reported() -> None:
    async def scenario(managed: ManagedLeases) -> None:
        managed.backend.prefix = "/short"
        lease = managed.lease("public")
        async with await serve(lease):
            await lease.ready()
            url = lease.url("")
            origin, _, secret = url.partition("/short/")
            assert len(secret) == 32
            assert await ask(f"{url}/x") == (200, b"app /x")
            assert (await ask(f"{origin}/short/x"))[0] == 404
            assert (await ask(f"{origin}/short/__synth/ready"))[0] == 200
            port = lease.info("").local_port
            lease.targets.remove_target("")  # as when its worker leaves first
            await lease.release(5)
        assert lease.transport.exposure() == [f"127.0.0.1:{port} was public through public for 0 s"]

    run(scenario)


def test_a_loopback_lease_is_no_exposure() -> None:
    async def scenario(managed: ManagedLeases) -> None:
        lease = managed.lease()
        async with await serve(lease):
            await lease.ready()
            await lease.release(5)
        assert lease.transport.exposure() == []

    run(scenario)


def test_callers_send_what_cloudflare_access_wants() -> None:
    async def scenario(managed: ManagedLeases) -> None:
        create = managed.backend._create
        managed.backend._create = lambda body: {  # type: ignore[method-assign]
            **create(body),
            "access_client_id": "id.access",
            "access_client_secret": "shh",
        }
        lease = managed.lease()
        await lease.ready()
        lease.targets.set_target("", Target("127.0.0.1", 9))
        assert lease.info("").headers == {
            "CF-Access-Client-Id": "id.access",
            "CF-Access-Client-Secret": "shh",
        }
        await lease.release(5)

    run(scenario)


def test_a_lease_begins_with_the_url_that_a_shared_connector_has_now(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def scenario(managed: ManagedLeases) -> None:
        managed.now = time.time()
        one = managed.lease("own-url")
        await one.ready()
        port = FakeConnector.made[0].assignment.gateway_url.rpartition(":")[2]
        monkeypatch.setattr(OwnUrlConnector, "origin", f"http://localhost:{port}")
        two = managed.lease("own-url")
        await two.ready()
        assert len(FakeConnector.made) == 1
        assert two.url("").startswith(f"http://localhost:{port}/")
        await asyncio.gather(one.release(5), two.release(5))

    run(scenario)


def test_a_lease_at_the_root_has_a_gateway_and_a_connector_of_its_own() -> None:
    async def scenario(managed: ManagedLeases) -> None:
        managed.now = time.time()
        leases = [managed.lease("own-url", url_style=style) for style in ("root", "root", "path")]
        for number, lease in enumerate(leases):
            async with await serve(lease):
                await lease.ready()
                url = lease.url("")
                assert bool(urlsplit(url).path) == (number == 2)
                assert await ask(f"{url}/{number}?y") == (200, f"app /{number}?y".encode())
                assert lease.transport.url_secret in url
        assert len({urlsplit(lease.url("")).netloc for lease in leases}) == 3
        # Each worker has a path below it, as there is one connector.
        worker = Target("127.0.0.1", 9)
        assert await leases[0].open_address("gw1", worker) == f"{leases[0].url('')}/~gw1"

        url = leases[0].url("")
        first = next(
            one for one in FakeConnector.made if url.startswith(one.assignment.gateway_url)
        )
        await leases[0].release(5)
        await first.stopped.wait()
        with pytest.raises(OSError, match=r"."):
            await ask(f"{url}/x")
        await leases[1].release(5)
        await leases[2].release(5)

    run(scenario)


def test_an_edge_with_paths_gives_no_origin() -> None:
    async def scenario(managed: ManagedLeases) -> None:
        failure = await failure_of(managed.lease("public", url_style="root"))
        assert failure.code == "NO_ORIGIN"
        assert failure.message == "the provider public gives every lease a URL with a path"

    run(scenario)

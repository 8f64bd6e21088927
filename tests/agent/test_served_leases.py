"""ServedLeases: addresses that lead to apps, through a whole agent."""

import asyncio

import pytest

from pytest_synth_tunnels.agent.target import Target
from pytest_synth_tunnels.wire.frames import (
    ReqEnd,
)

from ..support.agent_bench import (
    AgentBench,
    ok,
    read_request,
    run,
)

pytestmark = pytest.mark.usefixtures("whole_messages")


def test_each_address_leads_to_its_own_app() -> None:
    async def scenario(bench: AgentBench) -> None:
        for address in ("gw0", "gw1"):
            await bench.app(
                lambda seen, name=address: ok(f"{name} {seen.target}".encode()), address
            )
        assert (await bench.ask(path="/~gw0/x")).body == b"gw0 /x"
        assert (await bench.ask(path="/~gw1")).body == b"gw1 /"
        assert (await bench.ask(path="/%7Egw1/a", query="b=c")).body == b"gw1 /a?b=c"
        assert bench.seen[0].get("x-forwarded-prefix") == ["/s/rt_1/~gw0"]
        for path in ("/x", "/~gw2/x"):
            answer = await bench.ask(path=path)
            assert (answer.status, answer.code) == (404, "UNKNOWN_ADDRESS")
            assert "/~gw0, /~gw1" in answer.body.decode()
        bench.agent.leases.remove_target("l1", "gw1")
        assert (await bench.ask(path="/only")).body == b"gw0 /only"
        assert (await bench.ask(path="/~gw1/")).status == 404

    run(scenario)


def test_a_tilde_may_be_the_apps_own() -> None:
    async def scenario(bench: AgentBench) -> None:
        await bench.app(lambda seen: ok(seen.target.encode()))
        assert (await bench.ask(path="/~user/x")).body == b"/~user/x"

    run(scenario)


def test_a_lease_without_targets_says_so() -> None:
    async def scenario(bench: AgentBench) -> None:
        answer = await bench.ask()
        assert (answer.status, answer.code) == (404, "UNKNOWN_ADDRESS")
        assert "none yet" in answer.body.decode()

    run(scenario)


def test_a_new_target_takes_new_requests_while_old_ones_end_where_they_began() -> None:
    async def scenario(bench: AgentBench) -> None:
        go_on = asyncio.Event()

        async def old(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await read_request(reader, 0)
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n")
            await go_on.wait()
            writer.write(b"old")
            await reader.read()

        await bench.run(old)
        rid = bench.begin()
        bench.link.send(ReqEnd(rid))
        await bench.until(lambda: bench.answers[rid].status)
        await bench.app(lambda _: ok(b"new"))
        assert (await bench.ask()).body == b"new"
        go_on.set()
        assert (await bench.answered(rid)).body == b"old"
        assert (await bench.ask()).body == b"new"

    run(scenario)


def test_redirects_to_the_app_become_public() -> None:
    async def scenario(bench: AgentBench) -> None:
        await bench.app(lambda _: ok(b"", "LOCATION: /login?x=1", "Content-Location: /doc"), "gw0")
        answer = await bench.ask(path="/~gw0/")
        assert answer.get("location") == ["/s/rt_1/~gw0/login?x=1"]
        assert answer.get("content-location") == ["/s/rt_1/~gw0/doc"]
        bench.agent.leases.serve("l1", "https://public.example/t/rt_2")
        answer = await bench.ask(path="/~gw0/")
        assert answer.get("location") == ["/t/rt_2/~gw0/login?x=1"]

    run(scenario)


def test_a_name_of_this_machine_leads_here_without_a_resolver() -> None:
    async def scenario(bench: AgentBench) -> None:
        port = await bench.app(lambda _: ok(b"here"))
        target = Target.from_url(f"http://shop.localhost:{port}")
        bench.agent.leases.set_target("l1", "", target)
        assert (await bench.ask()).body == b"here"
        assert bench.seen[-1].get("host") == [f"shop.localhost:{port}"]

    run(scenario)


def test_an_app_that_accepted_at_one_address_is_not_waited_for_at_another() -> None:
    async def scenario(bench: AgentBench) -> None:
        server = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        bench.agent.leases.set_target("l1", "before", Target("127.0.0.1", port))
        bench.agent.leases.set_target("l1", "first", Target("127.0.0.1", port))
        await bench.ask(path="/~first/")
        server.close()
        await server.wait_closed()
        bench.agent.leases.set_target("l1", "after", Target("127.0.0.1", port))
        for address in ("before", "first", "after"):
            answer = await bench.ask(path=f"/~{address}/")
            assert (answer.status, answer.code) == (502, "TUNNEL_ENDPOINT_UNREACHABLE")
            assert "tried for" not in answer.body.decode()

    run(scenario)

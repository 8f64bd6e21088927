"""Programs as connectors: what can go wrong with them, with real processes."""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from pytest_synth_tunnels.connectors.base import Assignment, ConnectorError
from pytest_synth_tunnels.connectors.output_rules import Outcome, OutputRule
from pytest_synth_tunnels.connectors.program import ProgramConnector
from pytest_synth_tunnels.connectors.registry import load

from ..support.processes import gone, until

TOKEN = "tt_the_secret_of_the_lease"


class BoreConnector(ProgramConnector):
    """Somebody else's provider, as in the documentation."""

    name = "bore"
    how_to_get = "Install it with: cargo install bore-cli"
    brings_url = True
    output_rules = (
        OutputRule(Outcome.UP, r"listening at (?P<origin>https?://\S+)"),
        OutputRule(Outcome.FAILED, "retrying"),
        OutputRule(Outcome.OVER, "bad token", "Set BORE_SECRET"),
        OutputRule(Outcome.REFUSED, "rate limit", "Wait"),
    )

    def arguments(self) -> list[str]:
        return ["bore", "--to", self.assignment.gateway_url]

    def environment(self) -> dict[str, str]:
        return {"BORE_SECRET": self.assignment.need("tunnel_token")}


@pytest.fixture
def bore(tmp_path: Path) -> Callable[..., BoreConnector]:
    """Writes the program, and makes its connector."""

    def make(code: str, **environ: str) -> BoreConnector:
        program = tmp_path / "bore"
        program.write_text(f"#!{sys.executable} -Su\nimport os, sys, time\n{code}\n")
        program.chmod(0o755)
        variables = {"PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}", **environ}
        lease = {"tunnel_token": TOKEN}
        return BoreConnector(Assignment("http://127.0.0.1:8016", lease, variables))

    return make


def run(connector: BoreConnector, scenario: Callable[[], Awaitable[None]]) -> None:
    async def main() -> None:
        async with asyncio.timeout(20):
            try:
                await scenario()
            finally:
                await connector.stop()
            assert not connector.status().connected
            assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(main())
    assert TOKEN not in repr(connector.logs()) + repr(connector.status())


def failure(connector: BoreConnector) -> ConnectorError:
    errors: list[ConnectorError] = []

    async def scenario() -> None:
        await connector.start()
        with pytest.raises(ConnectorError) as caught:
            await connector.ready()
        errors.append(caught.value)

    run(connector, scenario)
    assert TOKEN not in str(errors[0])
    return errors[0]


UP = "print('listening at https://a.example/')\n"


def test_its_class_is_complete() -> None:
    assert load("bore", {"bore": f"{__name__}:BoreConnector"}) is not None


def test_a_provider_of_twenty_lines(bore: Any) -> None:
    connector = bore(
        f"print(sys.argv[1:], os.environ['BORE_SECRET'] == {TOKEN!r},"
        " 'SYNTH_API_KEY' in os.environ)\n" + UP + "time.sleep(60)",
        SYNTH_API_KEY="sk_1",
    )

    async def scenario() -> None:
        with pytest.raises(ConnectorError, match="not started"):
            await connector.ready()
        assert connector.status().error == "bore was not started"
        await connector.start()
        assert await connector.ready() == "https://a.example"
        assert connector.status().connected
        assert connector.logs()[0] == "['--to', 'http://127.0.0.1:8016'] True False"

    run(connector, scenario)
    assert connector.status().error == "bore was stopped"


def test_missing(tmp_path: Path) -> None:
    connector = BoreConnector(Assignment("http://127.0.0.1:1", {}, {"PATH": str(tmp_path)}))

    with pytest.raises(ConnectorError) as caught:
        asyncio.run(connector.start())

    assert caught.value.message == (
        "bore cannot be started: there is no program 'bore' in the PATH"
    )
    assert caught.value.hint == "Install it with: cargo install bore-cli"


def test_not_a_program(bore: Any, tmp_path: Path) -> None:
    connector = bore(UP)
    (tmp_path / "bore").write_text("#!/no/such/interpreter\n")

    with pytest.raises(ConnectorError, match="bore cannot be started: No such file"):
        asyncio.run(connector.start())


def test_exits_at_once(bore: Any) -> None:
    error = failure(bore("sys.exit('error: unexpected argument')"))

    assert error.message == (
        "bore is not connected: bore ended (exit status 1); its last lines:\n"
        "  error: unexpected argument"
    )


def test_a_bad_token_ends_it(bore: Any) -> None:
    error = failure(bore("print(f\"bad token: {os.environ['BORE_SECRET']}\"); time.sleep(60)"))

    assert error.message == "bore is not connected: bad token: ***"
    assert error.hint == "Set BORE_SECRET"


def test_a_rate_limit(bore: Any) -> None:
    error = failure(bore("print('rate limit reached', file=sys.stderr); time.sleep(60)"))

    assert str(error) == "bore is not connected: rate limit reached. Wait"


def test_it_hangs(bore: Any) -> None:
    connector = bore("print('dialling\\nstill dialling'); time.sleep(60)")

    async def scenario() -> None:
        await connector.start()
        await until(lambda: len(connector.logs()) == 2)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await connector.ready()
        assert connector.status().error == (
            "bore has not said that it is connected; its last line: still dialling"
        )

    run(connector, scenario)


def test_its_edge_flaps(bore: Any, tmp_path: Path) -> None:
    go = tmp_path / "go"
    os.mkfifo(go)
    connector = bore(f"{UP}for line in open({str(go)!r}): print(line, end='')")

    async def scenario() -> None:
        await connector.start()
        await connector.ready()
        with await asyncio.to_thread(open, go, "w", buffering=1) as fifo:
            for _ in range(3):
                fifo.write("connection lost, retrying\n")
                await until(lambda: not connector.status().connected)
                assert connector.status().error.endswith("connection lost, retrying")
                fifo.write("listening at https://a.example\n")
                await until(lambda: connector.status().connected)

    run(connector, scenario)


def test_it_is_started_again_and_its_url_may_be_another(bore: Any, tmp_path: Path) -> None:
    count = tmp_path / "count"
    connector = bore(
        f"n = os.path.exists({str(count)!r}); open({str(count)!r}, 'w').close()\n"
        "print(f'listening at https://{n}.example'); print(os.getpid()); time.sleep(60)"
    )

    async def scenario() -> None:
        await connector.start()
        assert await connector.ready() == "https://False.example"
        await until(lambda: len(connector.logs()) == 2)
        os.kill(int(connector.logs()[1]), 9)
        # Not until it is down, which may last no longer than a look takes.
        await until(lambda: "listening at https://True.example" in connector.logs())
        assert await connector.ready() == "https://True.example"

    run(connector, scenario)


def test_it_floods(bore: Any) -> None:
    connector = bore(
        f"sys.stdout.write('retrying with some words\\n' * 100_000)\n{UP}time.sleep(60)"
    )

    async def scenario() -> None:
        await connector.start()
        await connector.ready()
        assert len(connector.logs()) == 100

    run(connector, scenario)


KEEPER = """
import asyncio, json, sys
from pytest_synth_tunnels.connectors.base import Assignment
from pytest_synth_tunnels.connectors.program import Outcome, OutputRule, ProgramConnector

class Bore(ProgramConnector):
    name = "bore"
    output_rules = (OutputRule(Outcome.UP, "up"),)
    def arguments(self):
        return ["bore"]

async def keep():
    bore = Bore(Assignment("http://127.0.0.1:1", {}, json.loads(sys.argv[1])))
    await bore.start()
    await bore.ready()
    print(bore.logs()[0], flush=True)
    await asyncio.sleep(60)

asyncio.run(keep())
"""


@pytest.mark.skipif(os.name != "posix", reason="process groups")
def test_nothing_is_left_when_the_keeper_is_killed(bore: Any) -> None:
    connector = bore("c = os.fork()\nif c: print(c, os.getpid()); print('up')\ntime.sleep(60)")

    async def main() -> None:
        keeper = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", KEEPER, json.dumps(connector.assignment.environ)),
            stdout=subprocess.PIPE,
        )
        assert keeper.stdout is not None
        pids = (await keeper.stdout.readline()).split()
        keeper.kill()
        await keeper.wait()
        assert len(pids) == 2
        for pid in pids:
            await gone(int(pid))

    asyncio.run(main())

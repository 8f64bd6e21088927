"""A provider of somebody else's: twenty lines, named by a hook or by an installed package."""

import sys
from pathlib import Path

import pytest

from .conftest import SERVE_OWN_APP, RuntimeDirectory

pytestmark = pytest.mark.acceptance

CONNECTOR = f"""
from urllib.parse import urlsplit

from pytest_synth_tunnels.connectors.program import Outcome, OutputRule, ProgramConnector


class Edge(ProgramConnector):
    name = "edge"
    how_to_get = "It lies beside this file"
    brings_url = True
    output_rules = (
        OutputRule(Outcome.UP, r"^public url is (?P<origin>https?://\\S+)$"),
        OutputRule(Outcome.OVER, r"^no such account$", "Get one"),
    )

    def arguments(self):
        port = urlsplit(self.assignment.gateway_url).port
        return [{sys.executable!r}, __file__.replace("my_edge", "edge_program"), str(port)]
"""

PROGRAM = """
import asyncio, sys

async def pipe(reader, writer):
    while data := await reader.read(65536):
        writer.write(data)
    writer.close()

async def carry(reader, writer):
    there = await asyncio.open_connection("127.0.0.1", int(sys.argv[1]))
    await asyncio.gather(pipe(reader, there[1]), pipe(there[0], writer))

async def main():
    edge = await asyncio.start_server(carry, "127.0.0.1", 0)
    print(f"public url is http://127.0.0.1:{edge.sockets[0].getsockname()[1]}", flush=True)
    await edge.serve_forever()

asyncio.run(main())
"""

HOOK = """
def pytest_synth_tunnels_connectors(config):
    return {"edge": "my_edge:Edge"}
"""


@pytest.fixture
def edge_suite(suite: pytest.Pytester) -> pytest.Pytester:
    """The usual suite, with the provider's files beside it, and nothing that names it."""
    suite.makepyfile(my_edge=CONNECTOR, edge_program=PROGRAM)
    return suite


def name_by_hook(path: Path) -> None:
    (path / "conftest.py").write_text(SERVE_OWN_APP + HOOK)


def name_by_package(path: Path) -> None:
    package = path / "edge-1.0.dist-info"
    package.mkdir()
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: edge\nVersion: 1.0\n")
    (package / "entry_points.txt").write_text("[synth_tunnels.connectors]\nedge = my_edge:Edge\n")


@pytest.mark.parametrize("name", [name_by_hook, name_by_package])
def test_the_usual_suite_passes(
    edge_suite: pytest.Pytester, runtime: RuntimeDirectory, name: object
) -> None:
    assert callable(name)
    name(edge_suite.path)

    result = edge_suite.runpytest_subprocess("-n", "2", "--synth-tunnels-provider", "edge")

    result.assert_outcomes(passed=12)
    # A port of each worker's.
    public = [line for line in result.outlines if "was public through edge for" in line]
    assert len(public) == 2
    runtime.assert_nothing_left()


def test_one_test_s_own_lease(edge_suite: pytest.Pytester, runtime: RuntimeDirectory) -> None:
    name_by_hook(edge_suite.path)
    edge_suite.makepyfile(
        test_app="""
        from urllib.request import urlopen

        def test_it(synth_expose, exposed_port, app, synth_lease):
            assert synth_lease.provider == "synthtunnel"
            with synth_expose(exposed_port, provider="edge") as lease:
                assert lease.headers == {}
                with urlopen(lease.url("/x"), timeout=20) as answer:
                    assert answer.status == 200
        """
    )

    edge_suite.runpytest_subprocess("-p", "no:xdist").assert_outcomes(passed=1)
    runtime.assert_nothing_left()


def test_one_that_cannot_be_imported_is_named(
    edge_suite: pytest.Pytester, runtime: RuntimeDirectory
) -> None:
    name_by_hook(edge_suite.path)
    (edge_suite.path / "my_edge.py").write_text("import no_such_module\n")

    result = edge_suite.runpytest_subprocess(
        "-p", "no:xdist", "--synth-tunnels-provider", "edge", "-k", "0"
    )

    result.assert_outcomes(errors=2, deselected=10)
    result.stdout.fnmatch_lines(["*'edge' cannot be imported from 'my_edge:Edge'*no_such_module*"])
    runtime.assert_nothing_left()

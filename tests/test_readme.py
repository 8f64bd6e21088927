"""Every example of README and docs, unmodified, in a real pytest."""

import os
import re
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from shutil import which

import pytest

from .acceptance.conftest import OTHER_PLUGINS

ROOT = Path(__file__).parent.parent
TUTORIAL = ROOT / "docs" / "tutorial.md"
"""Its files change from step to step; tests/acceptance/test_tutorial.py takes the steps."""

TEXTS = [
    path.read_text("utf-8")
    for path in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))
    if path != TUTORIAL
]
BLOCK = re.compile(r"^```(?:python|ini|js)\n(?:#|//) (\S+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
"""One that names its file."""

ELSEWHERE = ("test_live_server.py", "test_live_server_on_the_exposed_port.py")
"""They need pytest-django, which would be loaded into every test of this project; interop runs
them."""

NEEDS = {
    "test_aiohttp.py": "aiohttp",
    "test_aiohttp_in_my_loop.py": "aiohttp",
    "test_browser.py": "pytest_playwright",
    "test_pytest_asyncio.py": "pytest_asyncio",
    "test_standard_webhooks.py": "standardwebhooks",
    "test_stripe.py": "stripe",
}
"""Packages of examples that the tests of this project need for nothing else. The step "examples"
of CI has them."""

IS_COMPLETE = "SYNTH_TUNNELS_ALL_EXAMPLES" in os.environ
"""Whether an example may not be skipped for want of something."""

UNUSUAL_PLUGINS = [name for name in OTHER_PLUGINS if name != "anyio"]
"""Those that users do not have because of this project."""

AS_IF_ALONE = """
import pytest

SERVERS = []

@pytest.hookimpl(wrapper=True)
def pytest_fixture_setup(fixturedef):
    given = yield
    if fixturedef.argname == "synth_serve":
        SERVERS.append(given.__self__)
    elif fixturedef.argname == "browser_type_launch_args":
        given.update(executable_path="CHROMIUM", args=["--no-sandbox"])
    return given

@pytest.fixture(scope="module", autouse=True)
def _stop_what_this_module_serves():
    yield
    for servers in SERVERS:
        servers.stop()
"""
"""A plugin for runs of several examples: each stops serving at its end, where it would end alone.
And the browser is the machine's."""

Files = dict[str, str]


def examples() -> dict[str, Files]:
    """Return the files of each example; what is no test goes with the test after it."""
    found: dict[str, Files] = {}
    for text in TEXTS:
        waiting: Files = {}
        for name, block in BLOCK.findall(text):
            waiting[name] = block
            if name.startswith("test_"):
                assert name not in found
                found[name], waiting = waiting, {}
        assert not waiting
    return found


def batches() -> list[Files]:
    """Return the files of examples that can run in one pytest: with the same settings and further
    packages, and with an exposed port that none of them keeps to the end."""
    together: dict[tuple[object, ...], Files] = {}
    for name, files in examples().items():
        if name not in ELSEWHERE:
            keeps_port = "exposed_socket" in files[name]
            settings = files.get("pytest.ini", ""), files.get("conftest.py", "")
            together.setdefault((NEEDS.get(name), keeps_port, *settings), {}).update(files)
    return list(together.values())


def name_of(batch: Files) -> str:
    """Return the name of a batch's first test."""
    return next(name for name in batch if name.startswith("test_"))


def test_every_python_block_names_its_file() -> None:
    blocks = sum(text.count("```python\n") for text in TEXTS)
    named = [name for files in examples().values() for name in files if name.endswith(".py")]
    assert blocks == len(named) >= 8


def test_every_example_is_in_a_batch() -> None:
    run = {name for batch in batches() for name in batch}
    wanted = {name for files in examples().values() for name in files}
    assert run >= wanted - set(ELSEWHERE)


@pytest.fixture
def passes(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> Callable[[Files, list[str]], None]:
    """Run the files of examples; each test must pass, or skip for want of a key."""

    def passes(files: Files, arguments: list[str]) -> None:
        monkeypatch.setenv("PYTEST_ADDOPTS", " ".join(f"-p no:{name}" for name in UNUSUAL_PLUGINS))
        # As in an activated environment.
        monkeypatch.setenv("PATH", str(Path(sys.executable).parent), prepend=os.pathsep)
        plugin = AS_IF_ALONE.replace("CHROMIUM", which("chromium") or "chromium")
        (pytester.path / "as_if_alone.py").write_text(plugin, "utf-8")
        for file, text in files.items():
            (pytester.path / file).write_text(text, "utf-8")
        source = "".join(files.values())
        # Without a key, what needs the hosted backend must skip.
        wanted = {"skipped": source.count("@pytest.mark.synth_hosted")}
        outcomes = pytester.runpytest_subprocess(*arguments).parseoutcomes()
        passed = outcomes.pop("passed", 0)
        assert outcomes == {name: number for name, number in wanted.items() if number}
        tests = len(re.findall(r"^(?:async )?def test_", source, re.MULTILINE))
        assert passed >= tests - wanted["skipped"]

    return passes


@pytest.mark.acceptance
@pytest.mark.usefixtures("unmeasured")
@pytest.mark.parametrize("batch", batches(), ids=name_of)
def test_examples_pass(passes: Callable[..., None], batch: Files) -> None:
    missing = {need for name in batch if (need := NEEDS.get(name)) and find_spec(need) is None}
    if missing and not IS_COMPLETE:
        pytest.skip(f"not installed: {', '.join(missing)}")
    if "server.mjs" in batch and which("node") is None and not IS_COMPLETE:
        pytest.skip("there is no node")
    passes(batch, ["-p", "as_if_alone"])


@pytest.mark.acceptance
@pytest.mark.usefixtures("unmeasured")
@pytest.mark.parametrize("arguments", [["-n", "4"], ["-p", "no:xdist"]], ids=" ".join)
def test_they_pass_with_and_without_workers(
    passes: Callable[..., None], arguments: list[str]
) -> None:
    # That any suite passes there is tests/acceptance/test_main_job.py.
    found = examples()
    files = {**found["test_callback.py"], **found["test_hook.py"], **found["test_inbox.py"]}
    passes(files, arguments)

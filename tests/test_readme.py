"""Every example of README and docs, unmodified, in a folder of its own and a real pytest."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from .acceptance.conftest import OTHER_PLUGINS

ROOT = Path(__file__).parent.parent
TEXTS = [
    path.read_text("utf-8") for path in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))
]
BLOCK = re.compile(r"^```(?:python|ini)\n# (\S+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
"""One that names its file."""

ELSEWHERE = ("test_live_server.py", "test_live_server_on_the_exposed_port.py")
"""They need pytest-django, which would be loaded into every test of this project; interop runs
them."""

UNUSUAL_PLUGINS = [name for name in OTHER_PLUGINS if name != "anyio"]
"""Those that users do not have because of this project."""


def examples() -> dict[str, dict[str, str]]:
    """Return the files of each example; what is no test goes with the test after it."""
    found: dict[str, dict[str, str]] = {}
    for text in TEXTS:
        waiting: dict[str, str] = {}
        for name, block in BLOCK.findall(text):
            waiting[name] = block
            if name.startswith("test_"):
                assert name not in found
                found[name], waiting = waiting, {}
        assert not waiting
    return found


def test_every_python_block_names_its_file() -> None:
    blocks = sum(text.count("```python\n") for text in TEXTS)
    named = [name for files in examples().values() for name in files if name.endswith(".py")]
    assert blocks == len(named) >= 8


@pytest.fixture
def passes(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> Callable[[dict[str, str], list[str]], None]:
    """Run the files of an example; its one test must pass, or skip for want of a key."""

    def passes(files: dict[str, str], arguments: list[str]) -> None:
        monkeypatch.setenv("PYTEST_ADDOPTS", " ".join(f"-p no:{name}" for name in UNUSUAL_PLUGINS))
        for file, text in files.items():
            (pytester.path / file).write_text(text, "utf-8")
        # Without a key, what needs the hosted backend must skip.
        is_hosted = any("@pytest.mark.synth_hosted" in text for text in files.values())
        outcome = "skipped" if is_hosted else "passed"
        assert pytester.runpytest_subprocess(*arguments).parseoutcomes() == {outcome: 1}

    return passes


@pytest.mark.acceptance
@pytest.mark.usefixtures("unmeasured")
@pytest.mark.parametrize("name", [name for name in examples() if name not in ELSEWHERE])
def test_example_passes(passes: Callable[..., None], name: str) -> None:
    passes(examples()[name], [])


@pytest.mark.acceptance
@pytest.mark.usefixtures("unmeasured")
@pytest.mark.parametrize("arguments", [["-n", "4"], ["-p", "no:xdist"]], ids=" ".join)
@pytest.mark.parametrize("name", ["test_callback.py", "test_hook.py", "test_outgoing.py"])
def test_it_passes_with_and_without_workers(
    passes: Callable[..., None], name: str, arguments: list[str]
) -> None:
    # That any suite passes there is tests/acceptance/test_main_job.py.
    passes(examples()[name], arguments)

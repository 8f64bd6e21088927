"""Every example of README and docs, unmodified, in a folder of its own and a real pytest."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
TEXTS = [path.read_text("utf-8") for path in (ROOT / "README.md", *(ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```(?:python|ini)\n# (\S+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
"""One that names its file."""


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


@pytest.mark.acceptance
@pytest.mark.usefixtures("unmeasured")
@pytest.mark.parametrize("arguments", [[], ["-n", "4"], ["-p", "no:xdist"]], ids=" ".join)
@pytest.mark.parametrize("name", examples())
def test_example_passes(pytester: pytest.Pytester, name: str, arguments: list[str]) -> None:
    for file, text in examples()[name].items():
        (pytester.path / file).write_text(text, "utf-8")

    result = pytester.runpytest_subprocess(*arguments)

    result.assert_outcomes(passed=1)

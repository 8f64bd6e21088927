"""Every example of the README, unmodified, in a folder of its own and a real pytest."""

import re
from pathlib import Path

import pytest

README = (Path(__file__).parent.parent / "README.md").read_text("utf-8")
BLOCKS = re.findall(r"^```(?:python|ini)\n# (\S+)\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)
"""(file name, text) of each block that names its file."""


def examples() -> dict[str, dict[str, str]]:
    """Return the files of each example; an ini file goes with the test after it."""
    found: dict[str, dict[str, str]] = {}
    waiting: dict[str, str] = {}
    for name, text in BLOCKS:
        waiting[name] = text
        if name.endswith(".py"):
            found[name], waiting = waiting, {}
    return found


def test_every_python_block_names_its_file() -> None:
    assert README.count("```python\n") == len(examples()) >= 5


@pytest.mark.acceptance
@pytest.mark.parametrize("arguments", [[], ["-n", "4"], ["-p", "no:xdist"]], ids=" ".join)
@pytest.mark.parametrize("name", examples())
def test_example_passes(pytester: pytest.Pytester, name: str, arguments: list[str]) -> None:
    for file, text in examples()[name].items():
        (pytester.path / file).write_text(text, "utf-8")

    result = pytester.runpytest_subprocess(*arguments)

    result.assert_outcomes(passed=1)

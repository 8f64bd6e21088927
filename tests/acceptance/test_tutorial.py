"""The tutorial, step by step: its files, its commands, and what it says that they print."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

TEXT = (Path(__file__).parents[2] / "docs" / "tutorial.md").read_text("utf-8")
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)

pytestmark = pytest.mark.acceptance


def blocks() -> list[tuple[str, str]]:
    """Return the language and the text of each block, in order."""
    return BLOCK.findall(TEXT)


def is_printed(line: str, output: str) -> bool:
    """Whether a line is in an output, in which times may be others."""
    parts = re.split(r"\d+(?:[.:]\d+)+|\d+(?= ms)", line.strip())
    return re.search(r"[\d.:]+".join(map(re.escape, parts)), output) is not None


def run(command: str, folder: Path) -> str:
    """Run a command as a reader would, with this interpreter, and return what it prints."""
    if command.startswith("python "):
        command = command.replace("python", f'"{sys.executable}"', 1)
    done = subprocess.run(  # noqa: S602 - a reader types it into a shell
        command,
        shell=True,
        cwd=folder,
        env={**os.environ, "COLUMNS": "80"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    return done.stdout + done.stderr


@pytest.mark.usefixtures("unmeasured", "runtime")
def test_every_step_does_what_the_text_says(tmp_path: Path) -> None:
    (language, setting_up), *steps = blocks()
    assert language == "sh"
    assert "pip install" in setting_up  # which is not repeated here
    output = ""
    commands = shown = 0

    for language, text in steps:
        if language == "sh":
            output = run(text.strip(), tmp_path)
            commands += 1
        elif language == "text":
            missing = [line for line in text.splitlines() if not is_printed(line, output)]
            assert missing == [], output
            shown += 1
        else:
            name, content = re.match(r"# (\S+)\n(.*)", text, re.DOTALL).groups()  # type: ignore[union-attr]
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content, "utf-8")

    assert (commands, shown) == (5, 4)


def test_ci_does_what_the_reader_did() -> None:
    sh = [text for language, text in blocks() if language == "sh"]
    (workflow,) = (text for language, text in blocks() if language == "yaml")
    runs = re.findall(r"- run: (.*)", workflow)

    assert runs == [sh[0].splitlines()[-1], sh[-1].strip()]


def test_another_output_is_noticed() -> None:
    assert is_printed("2 passed in 0.83s", "== 2 passed in 1.20s ==")
    assert not is_printed("2 passed in 0.83s", "1 failed, 1 passed in 1.20s")
    assert not is_printed("test_shop.py .   [100%]", "test_shop.py F   [100%]")

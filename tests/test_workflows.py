"""The workflows agree with the project: steps, Python versions, and what is said to run where."""

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parent.parent
WORKFLOWS = ROOT / ".github" / "workflows"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]

JOB = re.compile(r"- (?:python|system): \"?([\w.-]+)\"?\n((?: {12}.*\n)*)")


def may_fail() -> dict[str, bool]:
    """Return the Python versions and systems that CI has jobs for, and whether those may fail."""
    text = (WORKFLOWS / "ci.yml").read_text("utf-8")
    return {name: "may_fail: true" in rest for name, rest in JOB.findall(text)}


def test_a_classifier_is_given_for_what_ci_may_not_fail_on() -> None:
    jobs = may_fail()
    versions = {name for name in jobs if re.fullmatch(r"3\.\d+", name) and not jobs[name]}
    stated = {
        version
        for classifier in PROJECT["classifiers"]
        for version in re.findall(r"Python :: (3\.\d+)$", classifier)
    }

    assert stated == versions
    assert f">={min(stated, key=lambda version: int(version[2:]))}" == PROJECT["requires-python"]


def test_no_classifier_names_a_system_that_may_fail() -> None:
    jobs = may_fail()
    systems = {
        "macos-latest": "Operating System :: MacOS",
        "windows-latest": "Operating System :: Microsoft :: Windows",
    }

    assert {name for name in systems if jobs[name]} == {
        name for name, classifier in systems.items() if classifier not in PROJECT["classifiers"]
    }


def test_steps_that_workflows_name_exist() -> None:
    script = (ROOT / ".ci" / "run").read_text("utf-8")
    steps = set(re.search(r'^ALL="(.*)"$', script, re.MULTILINE)[1].split())  # type: ignore[index]
    named = set()
    for workflow in WORKFLOWS.glob("*.yml"):
        for command in re.findall(r"\.ci/run(.*)$", workflow.read_text("utf-8"), re.MULTILINE):
            named |= set(re.findall(r"^(?: [a-z]+)+$", command))

    assert len(steps) > 8
    assert all(f"step_{step}()" in script for step in steps)
    assert {step for line in named for step in line.split()} <= steps


def test_the_workflows_install_what_the_project_has() -> None:
    extras = set(PROJECT["optional-dependencies"])
    named = {
        extra
        for workflow in WORKFLOWS.glob("*.yml")
        for extra in re.findall(r"\"\.\[(\w+)\]\"", workflow.read_text("utf-8"))
    }

    assert named
    assert named <= extras

"""The documentation says all that the code has. CI builds the site with Sphinx, which checks that
every reference leads somewhere."""

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

from pytest_synth_tunnels.sdk.errors import CODES

DOCS = Path(__file__).parent.parent / "docs"


@pytest.fixture(scope="module")
def code_reference() -> ModuleType:
    """The module that makes parts of the reference from the code."""
    spec = importlib.util.spec_from_file_location(
        "code_reference", DOCS / "_ext" / "code_reference.py"
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_of_errors_has_every_code(code_reference: ModuleType) -> None:
    page = (DOCS / "reference" / "errors.md").read_text("utf-8")
    named = set(re.findall(r"`(\w+)`", page)) | set(CODES)  # the page has a table made of CODES
    codes = code_reference.error_codes()

    assert {"KEEPER_DIED", "SERVE_NO_APP", "AGENT_LOST", "unauthorized", "COMMAND_FAILED"} <= codes
    assert sorted(codes - named) == []


def test_the_page_of_errors_has_no_code_that_is_gone(code_reference: ModuleType) -> None:
    page = (DOCS / "reference" / "errors.md").read_text("utf-8")
    named = set(re.findall(r"`([A-Z]+(?:_[A-Z]+)+)`", page))
    source = "".join(path.read_text("utf-8") for path in Path(code_reference.PACKAGE).rglob("*.py"))

    assert sorted(code for code in named if f'"{code}"' not in source) == []


@pytest.mark.parametrize("part", ["fixtures", "options", "hooks", "classes", "sdk"])
def test_a_generated_part_has_text(code_reference: ModuleType, part: str) -> None:
    assert len(code_reference.substitutions()[part].splitlines()) > 8


def test_fixtures_are_found_with_scope_type_and_text(code_reference: ModuleType) -> None:
    found = {fixture.name: fixture for fixture in code_reference.fixtures()}

    assert {"synth_lease", "exposed_port", "synth_serve", "synth_traffic"} <= set(found)
    assert found["exposed_port"].scope == "session"
    assert found["exposed_port"].gives == "int"
    assert found["synth_traffic"].scope == "function"
    assert all(fixture.doc for fixture in found.values())


def test_every_page_is_in_a_table_of_contents() -> None:
    pages = [path for path in DOCS.rglob("*.md") if path.name != "index.md"]
    missing = []
    for path in pages:
        index = path.parent / "index.md"
        if not re.search(rf"^{path.stem}$|/{path.stem}$", index.read_text("utf-8"), re.MULTILINE):
            missing.append(str(path.relative_to(DOCS)))

    assert len(pages) > 10
    assert missing == []


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub and MyST make them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text("utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_links_between_texts_lead_somewhere() -> None:
    texts = [*DOCS.parent.glob("*.md"), *DOCS.parent.glob("examples/**/*.md"), *DOCS.rglob("*.md")]
    wrong = []
    count = 0
    for text in texts:
        links = re.findall(r"\]\((?!https?:)([^()\s#]*)(?:#([\w-]+))?\)", text.read_text("utf-8"))
        for target, anchor in links:
            count += 1
            page = text.parent / target if target else text
            if not page.exists() or (anchor and anchor not in anchors(page)):
                wrong.append(f"{text.relative_to(DOCS.parent)}: {target}#{anchor}")

    assert count > 60
    assert wrong == []

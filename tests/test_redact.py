from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest

from pytest_synth_tunnels.redact import redact
from pytest_synth_tunnels.sdk.models import Secret


def test_redaction_reaches_into_reports() -> None:
    try:
        token = "wt_secret"
        raise RuntimeError(f"refused {token}")
    except RuntimeError:
        longrepr: Any = pytest.ExceptionInfo.from_current().getrepr(showlocals=True)
    assert "wt_secret" in str(longrepr)

    cleaned = redact(longrepr, {"wt_secret", ""})

    assert "wt_secret" not in str(cleaned)
    assert "refused ***" in str(cleaned)


def test_redaction_keeps_what_it_does_not_know() -> None:
    place = ("tests/test_x.py", 3, "Skipped: wt_1")
    other = SimpleNamespace(text="wt_1")

    assert redact(place, ["wt_1"]) == ("tests/test_x.py", 3, "Skipped: ***")
    assert redact(other, ["wt_1"]) is other
    assert redact([("Captured", "a wt_1 b")], ["wt_1"]) == [("Captured", "a *** b")]
    assert redact(None, ["wt_1"]) is None
    assert redact("wt_1", []) == "wt_1"


def test_redaction_of_what_a_test_records() -> None:
    class Point(NamedTuple):
        name: str

    properties = [("t", Secret("wt_1")), ("h", {"wt_1": ["a wt_1"]}), ("p", Point("wt_1"))]

    cleaned = redact(properties, ["wt_1"])

    assert cleaned == [("t", "***"), ("h", {"***": ["a ***"]}), ("p", Point("wt_1"))]
    # A plain string: xdist can send nothing else.
    assert type(cleaned[0][1]) is str


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("x wt_0123456789...yyy", "x ***...yyy"),
        ("xxx...6789abcdef y", "xxx...*** y"),
        ("xx wt_01234...89abcdef y", "xx ***...*** y"),
        ("wt_0123456789abcdef and wt_0123456789...", "*** and ***..."),
        # Too little of it to matter, something else, or not cut.
        ("wt_01...", "wt_01..."),
        ("wt_0123499...", "wt_0123499..."),
        ("wt_0123456 and more...", "wt_0123456 and more..."),
    ],
)
def test_redaction_of_a_text_that_pytest_has_cut(text: str, cleaned: str) -> None:
    assert redact(text, ["wt_0123456789abcdef"]) == cleaned

from types import SimpleNamespace
from typing import Any

import pytest

from pytest_synth_tunnels.sdk.models import Secret
from pytest_synth_tunnels.reporting import header, redact
from pytest_synth_tunnels.settings import Settings


def test_a_secret_is_a_string_that_does_not_show() -> None:
    token = Secret("wt_1")

    assert token == "wt_1"
    assert repr({"h": token}) == "{'h': '***'}"
    assert f"Bearer {token}" == "Bearer wt_1"


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


def test_the_header_tells_what_is_not_as_by_default() -> None:
    assert header(Settings()) == "synth tunnels: embedded backend"
    changed = Settings(ttl_s=60.0, sources={"ttl_s": "$SYNTH_TUNNELS_TTL_S"})
    assert header(changed) == "synth tunnels: embedded backend, ttl_s=60.0 ($SYNTH_TUNNELS_TTL_S)"

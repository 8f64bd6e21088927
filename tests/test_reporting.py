import warnings
from types import SimpleNamespace
from typing import Any

import pytest

from pytest_synth_tunnels.reporting import Redaction, header
from pytest_synth_tunnels.sdk.models import Secret
from pytest_synth_tunnels.settings import Settings


def test_a_secret_is_a_string_that_does_not_show() -> None:
    token = Secret("wt_1")

    assert token == "wt_1"
    assert repr({"h": token}) == "{'h': '***'}"
    assert f"Bearer {token}" == "Bearer wt_1"


def test_redaction_of_warnings() -> None:
    config: Any = SimpleNamespace(pluginmanager=SimpleNamespace(get_plugin=lambda _: None))
    with pytest.warns(UserWarning, match="wt_1") as recorded:
        warnings.warn("a wt_1 b", stacklevel=1)

    Redaction(config, lambda: {"wt_1"}).pytest_warning_recorded(recorded[0])

    assert str(recorded[0].message) == "a *** b"


def test_the_header_tells_what_is_not_as_by_default() -> None:
    assert header(Settings()) == "synth tunnels: embedded backend"
    changed = Settings(ttl_s=60.0, sources={"ttl_s": "$SYNTH_TUNNELS_TTL_S"})
    assert header(changed) == "synth tunnels: embedded backend, ttl_s=60.0 ($SYNTH_TUNNELS_TTL_S)"
    public = Settings(provider="ngrok", sources={"provider": "--synth-tunnels-provider"})
    assert header(public).endswith(", provider=ngrok (--synth-tunnels-provider)")

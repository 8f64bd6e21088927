"""The settings that both clients share."""

from typing import Any

import pytest

from pytest_synth_tunnels.sdk import TunnelsClient
from pytest_synth_tunnels.sdk.base import present_as_method
from pytest_synth_tunnels.sdk.errors import TunnelConfigError
from pytest_synth_tunnels.sdk.requests import Request, release_lease


def test_constructor_arguments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SYNTH_API_KEY", "sk-env")
    client = TunnelsClient(backend_base="https://a", base_url="https://b", timeout=5)
    assert (client.backend_base, client.timeout_seconds) == ("https://a", 5)
    assert client.api_key == "sk-env"
    assert TunnelsClient(base_url="https://b").backend_base == "https://b"
    assert TunnelsClient(timeout=5, timeout_seconds=6).timeout_seconds == 6
    assert TunnelsClient().timeout_seconds == 30.0


@pytest.mark.parametrize(
    "options", [{"timeout": 0}, {"timeout": None}, {"timeout": "5"}, {"retries": -1}]
)
def test_arguments_that_make_no_sense_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        TunnelsClient(api_key="k", **options)


def test_a_url_that_httpx_cannot_use_is_refused_at_once() -> None:
    with pytest.raises(TunnelConfigError, match="not a URL"):
        TunnelsClient(api_key="k", base_url="https://a\x7fb")


def test_no_proxy_is_asked_for_loopback_and_no_key_is_shown() -> None:
    near = TunnelsClient(api_key="sk-1", base_url="http://127.0.0.1:1")
    far = TunnelsClient(api_key="sk-1", base_url="https://b")
    assert (near._http_options()["trust_env"], far._http_options()["trust_env"]) == (False, True)
    assert "sk-1" not in repr([near, near.api_key, far._http_options()["headers"]])


def test_a_method_has_the_help_of_its_call() -> None:
    def method(self: object, /, *args: Any) -> Request:
        return release_lease(*args)

    present_as_method(method, release_lease)

    assert (method.__name__, method.__doc__) == ("release_lease", release_lease.__doc__)
    assert list(method.__signature__.parameters) == ["self", "lease_id"]  # type: ignore[attr-defined]

"""Where a client gets its key and its backend from."""

import pytest

from pytest_synth_tunnels.sdk.errors import TunnelConfigError
from pytest_synth_tunnels.sdk.resolve import (
    is_loopback,
    normalize_backend_base,
    resolve_api_key,
    resolve_backend_base,
)


def test_the_given_key_wins_over_the_environments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SYNTH_API_KEY", " sk-env\n")
    assert resolve_api_key(" sk-given ") == "sk-given"
    assert resolve_api_key(" ") == "sk-env"
    assert resolve_api_key(None) == "sk-env"


@pytest.mark.parametrize("given", [None, "", " \n"])
def test_a_missing_key_names_both_places(given: str | None) -> None:
    with pytest.raises(ValueError, match=r"api_key .*SYNTH_API_KEY") as caught:
        resolve_api_key(given)
    assert isinstance(caught.value, TunnelConfigError)
    assert caught.value.code == "TUNNEL_AUTH_REQUIRED"


@pytest.mark.parametrize("key", ["sk-1\r\nX-Evil: 1", "sk-é", "sk-\x00"])
def test_a_key_that_fits_in_no_header_is_refused_unseen(key: str) -> None:
    with pytest.raises(TunnelConfigError) as caught:
        resolve_api_key(key)
    assert "sk-" not in f"{caught.value} {caught.value!r}"


@pytest.mark.parametrize(
    "url",
    [
        "https://h",
        " https://h/ ",
        "https://h/v1",
        "https://h/api",
        "https://h/api/v1/",
        "https://h/api/v1?x=1#y",
        "https://h//",
    ],
)
def test_a_backend_url_is_cut_to_its_origin(url: str) -> None:
    assert normalize_backend_base(url) == "https://h"


def test_a_path_of_its_own_stays() -> None:
    assert normalize_backend_base("https://h/synth/api/v1") == "https://h/synth"
    assert normalize_backend_base("https://h/v1/api") == "https://h/v1"


def test_the_given_url_wins_over_the_environments(monkeypatch: pytest.MonkeyPatch) -> None:
    assert resolve_backend_base(None) == "https://api.usesynth.ai"
    monkeypatch.setenv("SYNTH_BACKEND_URL", " http://127.0.0.1:1/api ")
    assert resolve_backend_base(" ") == "http://127.0.0.1:1"
    assert resolve_backend_base("https://h") == "https://h"


@pytest.mark.parametrize(
    ("url", "code"),
    [
        ("api.usesynth.ai", "TUNNEL_URL_INVALID"),
        ("ftp://h", "TUNNEL_URL_INVALID"),
        ("https://", "TUNNEL_URL_INVALID"),
        ("https://h:port", "TUNNEL_URL_INVALID"),
        ("https://[::1", "TUNNEL_URL_INVALID"),
        ("http://example.com", "TUNNEL_URL_FORBIDDEN"),
        ("http://10.0.0.1:8000", "TUNNEL_URL_FORBIDDEN"),
        ("http://localhost.example.com", "TUNNEL_URL_FORBIDDEN"),
        ("https://user:hunter2@h", "TUNNEL_URL_FORBIDDEN"),
    ],
)
def test_a_url_that_cannot_be_used_is_refused(
    url: str, code: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(TunnelConfigError, match="The backend URL") as caught:
        resolve_backend_base(url)
    assert caught.value.code == code
    assert "hunter2" not in str(caught.value)
    monkeypatch.setenv("SYNTH_BACKEND_URL", url)
    with pytest.raises(TunnelConfigError, match="SYNTH_BACKEND_URL"):
        resolve_backend_base(None)


@pytest.mark.parametrize("host", ["localhost", "a.localhost", "127.0.0.1", "127.9.9.9", "::1"])
def test_loopback(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize("host", ["0.0.0.0", "10.0.0.1", "notlocalhost", "1270.0.0.1", "::2", ""])
def test_not_loopback(host: str) -> None:
    assert not is_loopback(host)

"""Every setting as text: what is taken, and what is refused with the words that say why."""

from typing import Any

import pytest

from pytest_synth_tunnels.options import OPTIONS, Option, is_url
from pytest_synth_tunnels.settings import Settings, SettingsError, check_combinations

BY_NAME = {option.name: option for option in OPTIONS}


@pytest.mark.parametrize("option", OPTIONS, ids=lambda option: option.name)
def test_the_three_names_of_an_option_are_one(option: Option) -> None:
    assert option.ini == f"synth_tunnels_{option.name}"
    assert option.flag == f"--synth-tunnels-{option.name.replace('_', '-')}"
    assert option.variable == f"SYNTH_TUNNELS_{option.name.upper()}"
    assert option.help
    assert "\n" not in option.help


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("backend", "auto", "auto"),
        ("backend", "https://tunnels.test:8443/x", "https://tunnels.test:8443/x"),
        ("ttl_s", "0.5", 0.5),
        ("ttl_s", "86400", 86400.0),
        ("port", "1", 1),
        ("port", "65535", 65535),
        ("app", "shop.main:make.app", "shop.main:make.app"),
        ("require_token", "OFF", False),
        ("require_token", "1", True),
        ("host_header", "[::1]:8000", "[::1]:8000"),
        ("bind", "docker0", "docker0"),
        ("bind", "br-0123456789ab", "br-0123456789ab"),
        ("bind", "::", "::"),
        ("public_host", "host.docker.internal", "host.docker.internal"),
        ("public_host", "[::1]", "::1"),
        ("public_port", "443", 443),
        ("provider", "a-plugins-own", "a-plugins-own"),
        ("traffic_body_bytes", "0", 0),
        ("pass_env", "A, B  C,", ("A", "B", "C")),
        ("cloudflared", "cloudflared", "cloudflared"),
        ("report", "out/traffic.html", "out/traffic.html"),
    ],
)
def test_a_value(name: str, text: str, value: Any) -> None:
    parsed = BY_NAME[name].parse(text)
    assert parsed == value
    assert type(parsed) is type(value)


@pytest.mark.parametrize(
    ("name", "text", "why"),
    [
        ("backend", "ftp://x", "http(s) URL"),
        ("backend", "https://key@tunnels.test", "SYNTH_API_KEY"),
        ("ttl_s", "0", "above 0"),
        ("ttl_s", "nan", "above 0"),
        ("ttl_s", "soon", "number of seconds"),
        ("ttl_s", "86401", "up to 86400"),
        ("port", "0", "1 to 65535"),
        ("port", "65536", "1 to 65535"),
        ("port", "\u0661", "1 to 65535"),
        ("command", "  ", "{port}"),
        ("app", "shop.main", "module:attribute"),
        ("app", "shop-main:app", "module:attribute"),
        ("require_token", "maybe", "true or false"),
        ("url_style", "flat", "root or path"),
        ("host_header", "a b", "a host"),
        ("host_header", "a\r\nX: 1", "a host"),
        ("bind", "http://0.0.0.0", "an interface such as docker0"),
        ("bind", "", "an interface such as docker0"),
        ("public_host", "http://app.test", "without a scheme and a port"),
        ("public_host", "app.test:80", "without a scheme and a port"),
        ("public_host", "-app.test", "without a scheme and a port"),
        ("public_port", "0", "1 to 65535"),
        ("provider", "auto", "never chosen by itself"),
        ("provider", " ", "synthtunnel"),
        ("traffic_body_bytes", "-1", "0 to 8388608"),
        ("traffic_body_bytes", "8388609", "0 to 8388608"),
        ("report", "folder/", "a file"),
        ("output", "", "a folder"),
        ("cloudflared", "", "cloudflared"),
    ],
)
def test_a_value_that_is_refused(name: str, text: str, why: str) -> None:
    with pytest.raises(ValueError, match="must") as refusal:
        BY_NAME[name].parse(text)
    assert why in str(refusal.value)


def test_a_program_by_its_path_is_found_from_every_folder(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert BY_NAME["cloudflared"].parse("bin/cloudflared") == str(tmp_path / "bin" / "cloudflared")


def test_urls() -> None:
    assert is_url("http://127.0.0.1:8000")
    for text in ("", "http://", "tunnels.test", "http://a@b"):
        assert not is_url(text)


def test_an_inspector_of_no_traffic_is_refused() -> None:
    option = BY_NAME["inspector"]
    assert [option.parse(text) for text in ("on", "off", "hold")] == ["on", "off", "hold"]
    with pytest.raises(ValueError, match="off or on or hold"):
        option.parse("always")
    with pytest.raises(SettingsError, match="nothing is recorded"):
        check_combinations(Settings(inspector="on", traffic=False))

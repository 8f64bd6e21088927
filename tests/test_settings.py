import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pytest_synth_tunnels.options import OPTIONS, Option
from pytest_synth_tunnels.settings import (
    Settings,
    SettingsError,
    apply_hooks,
    find_missing_key,
    resolve,
)


def resolved(
    command_line: Mapping[str, str] | None = None,
    environ: Mapping[str, str] | None = None,
    ini: Mapping[str, str] | None = None,
) -> Settings:
    def lookup(values: Mapping[str, str] | None):  # type: ignore[no-untyped-def]
        return lambda option: (values or {}).get(option.name)

    return resolve(lookup(command_line), environ or {}, lookup(ini))


def option(name: str) -> Option:
    return next(option for option in OPTIONS if option.name == name)


def test_defaults() -> None:
    assert resolved() == Settings()
    assert resolved().sources == {}


def test_every_setting_but_the_derived_ones_is_an_option() -> None:
    fields = set(Settings.__dataclass_fields__)

    assert {option.name for option in OPTIONS} == fields - {
        "backend_url",
        "connectors",
        "sources",
        "traffic_masked",
    }


@pytest.mark.parametrize(
    ("given", "ttl_s", "source"),
    [
        ({"ini": {"ttl_s": "100"}}, 100, "synth_tunnels_ttl_s in the ini file"),
        (
            {"ini": {"ttl_s": "100"}, "environ": {"SYNTH_TUNNELS_TTL_S": "200"}},
            200,
            "$SYNTH_TUNNELS_TTL_S",
        ),
        (
            {"environ": {"SYNTH_TUNNELS_TTL_S": "200"}, "command_line": {"ttl_s": "300"}},
            300,
            "--synth-tunnels-ttl-s",
        ),
    ],
)
def test_the_nearest_source_wins_and_is_remembered(
    given: dict[str, dict[str, str]], ttl_s: float, source: str
) -> None:
    settings = resolved(**given)

    assert settings.ttl_s == ttl_s
    assert settings.sources == {"ttl_s": source}
    assert settings.is_from_ini("ttl_s") is ("ini file" in source)
    assert not settings.is_from_ini("port")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("backend", "ftp://backend"),
        ("backend", "hostedd"),
        ("backend", "https://"),
        ("ttl_s", "0"),
        ("ttl_s", "nan"),
        ("ttl_s", "86401"),
        ("ttl_s", "soon"),
        ("port", "0"),
        ("port", "65536"),
        ("port", "-1"),
        ("port", "٣"),
        ("command", "  "),
        ("share", "everyone"),
        ("start_timeout_s", "-3"),
        ("allow_remote_targets", "perhaps"),
        ("provider", "auto"),
        ("provider", " "),
        ("cloudflared", " "),
    ],
)
def test_a_wrong_value_names_itself_and_its_source(name: str, text: str) -> None:
    with pytest.raises(SettingsError) as caught:
        resolved(environ={option(name).variable: text})

    assert str(caught.value).startswith(f"${option(name).variable} is {text!r}: it must ")


def test_a_password_in_a_url_is_refused_and_not_shown() -> None:
    with pytest.raises(SettingsError) as caught:
        resolved(command_line={"backend": "https://user:hunter2@backend.test"})

    assert "hunter2" not in str(caught.value)
    assert "--synth-tunnels-backend" in str(caught.value)


KEY = {"SYNTH_API_KEY": "sk"}
URL = {"SYNTH_BACKEND_URL": "https://backend.test"}


@pytest.mark.parametrize(
    ("backend", "environ", "url"),
    [
        ("auto", {}, None),
        ("auto", KEY, None),
        ("auto", URL, None),
        ("auto", KEY | URL, "https://backend.test"),
        ("embedded", KEY | URL, None),
        ("hosted", KEY, "https://api.usesynth.ai"),
        ("hosted", KEY | URL, "https://backend.test"),
        ("http://127.0.0.1:9", KEY | URL, "http://127.0.0.1:9"),
    ],
)
def test_which_backend(backend: str, environ: dict[str, str], url: str | None) -> None:
    assert resolved({"backend": backend}, environ).backend_url == url


@pytest.mark.parametrize(
    ("options", "environ", "reason"),
    [
        ({}, {}, None),
        ({"backend": "embedded"}, {}, None),
        ({"backend": "hosted"}, {"SYNTH_API_KEY": "sk"}, None),
        ({"backend": "hosted"}, {"SYNTH_API_KEY": " "}, "api.usesynth.ai, and $SYNTH_API_KEY is"),
        ({"backend": "https://b.example"}, {}, "names the backend https://b.example, and"),
    ],
)
def test_a_hosted_backend_without_a_key(
    options: dict[str, str], environ: dict[str, str], reason: str | None
) -> None:
    found = find_missing_key(resolved(ini=options, environ=environ), environ)

    assert found is None if reason is None else found is not None and reason in found


def test_a_wrong_backend_url_names_its_variable() -> None:
    with pytest.raises(SettingsError, match=r"^\$SYNTH_BACKEND_URL must be"):
        resolved({"backend": "hosted"}, {"SYNTH_BACKEND_URL": "backend.test"})


def test_settings_survive_the_way_to_the_keeper() -> None:
    settings = resolved(
        {"pass_env": "A, B C", "port": "8000", "share": "worker", "provider": "mine"}
    )
    settings = replace(settings, connectors={"mine": "mine:Mine"})

    assert settings.pass_env == ("A", "B", "C")
    assert Settings.from_json(settings.to_json()) == settings


def test_a_program_s_path_does_not_depend_on_the_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    parse = next(option.parse for option in OPTIONS if option.name == "cloudflared")
    assert parse("bin/cloudflared") == str(tmp_path / "bin" / "cloudflared")
    assert parse("cloudflared") == "cloudflared"


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (
            {"url_style": "root", "backend": "https://b.example"},
            "--synth-tunnels-url-style is 'root', and a hosted relay gives every lease a URL with",
        ),
        ({"url_style": "root", "provider": "ngrok"}, "and the provider ngrok gives"),
        (
            {"require_token": "false", "backend": "https://b.example"},
            "--synth-tunnels-require-token is false, and a hosted relay always wants the worker",
        ),
        (
            {"url_style": "path", "bind": "docker0"},
            "at the backend's own port, http on loopback, and --synth-tunnels-bind is 'docker0'",
        ),
        ({"url_style": "path", "public_port": "8443"}, "--synth-tunnels-public-port is 8443"),
        ({"url_style": "path", "tls": "yes"}, "--synth-tunnels-tls is True: leave one out"),
        (
            {"port": "8000", "public_port": "8000"},
            "--synth-tunnels-public-port and --synth-tunnels-port are both 8000",
        ),
        ({"url_style": "host"}, "--synth-tunnels-url-style is 'host': it must be root or path"),
        ({"host_header": "a b"}, "must be auto, target, public or a host such as app.test:8000"),
    ],
)
def test_what_cannot_be_together_is_told_with_its_source(given: dict[str, str], words: str) -> None:
    with pytest.raises(SettingsError, match=re.escape(words)):
        resolved(given)


def test_where_callers_come() -> None:
    settings = resolved({"bind": "::", "public_host": "[2001:db8::1]", "public_port": "8443"})
    assert (settings.bind, settings.public_host, settings.public_port) == (
        "::",
        "2001:db8::1",
        8443,
    )
    assert settings.has_placed_origins
    assert not resolved().has_placed_origins
    # Elsewhere these settings mean nothing, so that one ini file serves both backends.
    resolved({"bind": "docker0", "url_style": "path", "backend": "https://b.example"})


def test_styles_hosts_and_tokens() -> None:
    given = {"url_style": "path", "require_token": "no", "host_header": "shop.test:81"}
    settings = resolved(given)
    assert (settings.url_style, settings.require_token) == ("path", False)
    assert settings.host_header == "shop.test:81"
    # A provider's URL wants no token in any case.
    hosted = {"require_token": "no", "provider": "ngrok", "backend": "https://b.example"}
    assert not resolved(hosted).require_token


def applied(
    settings: Settings, *connectors: Any, adjust: Callable[[Settings], Any] = lambda _: None
) -> Settings:
    return apply_hooks(
        settings,
        connectors=connectors,
        adjust=adjust,
        installed_providers=lambda found: sorted({"ngrok", "installed", *found}),
    )


def test_hooks_that_say_nothing_change_nothing() -> None:
    settings = resolved({"ttl_s": "60"})

    assert applied(settings) == settings
    assert applied(settings).sources == settings.sources


def test_what_a_hook_changed_has_the_hook_as_its_source() -> None:
    adjusted = applied(
        resolved({"ttl_s": "60", "share": "worker"}),
        {"mine": "mine:Mine"},
        adjust=lambda given: replace(given, ttl_s=70.0, provider="mine"),
    )

    assert (adjusted.ttl_s, adjusted.provider, adjusted.share) == (70.0, "mine", "worker")
    assert adjusted.connectors == {"mine": "mine:Mine"}
    assert adjusted.sources == {
        "ttl_s": "pytest_synth_tunnels_settings",
        "share": "--synth-tunnels-share",
        "provider": "pytest_synth_tunnels_settings",
    }


@pytest.mark.parametrize(
    ("connectors", "message"),
    [
        (["mine"], "must return a mapping, not str"),
        ([{"mine": "mine"}], "gave 'mine' for 'mine': it must be \"module:Class\""),
        ([{"mine": 1}], "gave 1 for 'mine'"),
        ([{"ngrok": "mine:Mine"}], "gave a provider 'ngrok', and there is one already"),
        ([{"auto": "mine:Mine"}], "gave a provider 'auto', and there is one already"),
        ([{"mine": "a:A"}, {"mine": "b:B"}], "gave a provider 'mine', and there is one already"),
    ],
)
def test_wrong_connectors_name_their_hook(connectors: list[Any], message: str) -> None:
    with pytest.raises(SettingsError) as caught:
        applied(Settings(), *connectors)

    assert str(caught.value).startswith(f"pytest_synth_tunnels_connectors {message}")


def test_a_hook_must_return_settings() -> None:
    with pytest.raises(SettingsError, match="must return Settings or None, not dict"):
        applied(Settings(), adjust=lambda _: {})


def test_a_provider_must_be_known() -> None:
    assert applied(resolved({"provider": "installed"})).provider == "installed"
    with pytest.raises(SettingsError) as caught:
        applied(resolved({"provider": "other"}), {"mine": "mine:Mine"})

    assert str(caught.value) == (
        "--synth-tunnels-provider is 'other': there is no such provider; known are synthtunnel, "
        "installed, mine, ngrok"
    )

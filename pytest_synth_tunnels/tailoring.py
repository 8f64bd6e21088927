"""What the hooks make of the settings, and whether the provider is one that there is."""

from collections.abc import Iterable, Mapping
from dataclasses import fields, replace
from typing import Any

import pytest

from .options import PROVIDERS
from .settings import Settings, SettingsError, check_combinations

__all__ = ["tailor"]

_SETTINGS_HOOK = "pytest_synth_tunnels_settings"
_CONNECTORS_HOOK = "pytest_synth_tunnels_connectors"

_TAKEN = {*PROVIDERS, "auto", "loopback"}


def tailor(settings: Settings, config: pytest.Config) -> Settings:
    """Return the settings as the hooks of a run leave them.

    Args:
        settings: as the user gave them.
        config: whose hooks are asked.

    Raises:
        SettingsError: a hook gave what cannot be used, or nobody knows the provider.
    """
    found = _collect(config.hook.pytest_synth_tunnels_connectors(config=config))
    given = replace(settings, connectors=found)
    adjusted = config.hook.pytest_synth_tunnels_settings(config=config, settings=given)
    if adjusted is not None:
        if not isinstance(adjusted, Settings):
            raise SettingsError(
                f"{_SETTINGS_HOOK} must return Settings or None, not {type(adjusted).__name__}"
            )
        changed = {
            field.name: _SETTINGS_HOOK
            for field in fields(Settings)
            if field.compare and getattr(adjusted, field.name) != getattr(given, field.name)
        }
        given = replace(adjusted, sources={**adjusted.sources, **changed})
    _check_provider(given)
    check_combinations(given)
    return given


def _collect(answers: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """Join what the implementations of the hook gave."""
    found: dict[str, str] = {}
    for answer in answers:
        if not isinstance(answer, Mapping):
            raise SettingsError(
                f"{_CONNECTORS_HOOK} must return a mapping, not {type(answer).__name__}"
            )
        for name, place in answer.items():
            module, _, attribute = str(place).partition(":")
            if not (isinstance(place, str) and module and attribute):
                raise SettingsError(
                    f'{_CONNECTORS_HOOK} gave {place!r} for {name!r}: it must be "module:Class"'
                )
            if name in _TAKEN or found.get(name, place) != place:
                raise SettingsError(
                    f"{_CONNECTORS_HOOK} gave a provider {name!r}, and there is one already: "
                    "choose another name"
                )
            found[name] = place
    return found


def _check_provider(settings: Settings) -> None:
    if settings.provider in PROVIDERS or settings.provider in settings.connectors:
        return
    from .connectors.registry import known_names

    known = known_names(settings.connectors)
    if settings.provider not in known:
        source = settings.sources.get("provider", _SETTINGS_HOOK)
        names = ", ".join(["synthtunnel", *known])
        raise SettingsError(
            f"{source} is {settings.provider!r}: there is no such provider; known are {names}"
        )

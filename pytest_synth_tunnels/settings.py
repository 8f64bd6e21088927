"""The settings of a run: one frozen dataclass, and where each value came from.

Command line > environment > ini file > default. Keys are no settings: they come from the
environment alone (:data:`API_KEY_VARIABLE`) and are never stored here.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

__all__ = [
    "API_KEY_VARIABLE",
    "BACKEND_URL_VARIABLE",
    "DEFAULT_BACKEND_URL",
    "Settings",
    "SettingsError",
]

API_KEY_VARIABLE = "SYNTH_API_KEY"
BACKEND_URL_VARIABLE = "SYNTH_BACKEND_URL"
DEFAULT_BACKEND_URL = "https://api.usesynth.ai"


class SettingsError(ValueError):
    """A setting has a value that it cannot have; the message says where it came from."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What this run's tunnels are made of.

    Attributes:
        backend: ``auto``, ``embedded``, ``hosted`` or a URL, as it was set.
        backend_url: the backend's origin, or ``None`` for the embedded one.
        ttl_s: how long a lease is asked for, in seconds.
        port: the fixed local port that the lease exposes, or ``None`` for a free one for each
            process.
        command: what the keeper starts to serve that port, or ``None``.
        command_timeout_s: how long the command may take until its port accepts, in seconds.
        share: ``run`` for one lease in all workers, ``worker`` for a lease in each.
        start_timeout_s: how long a fixture waits for the keeper and its lease, in seconds.
        request_timeout_s: how long a caller waits for the app's answer, in seconds.
        allow_remote_targets: whether a target may be another machine.
        pass_env: names of further environment variables that the keeper gets.
        sources: for each setting that differs from its default, where it came from.
    """

    backend: str = "auto"
    backend_url: str | None = None
    ttl_s: float = 14_400.0
    port: int | None = None
    command: str | None = None
    command_timeout_s: float = 60.0
    share: str = "run"
    start_timeout_s: float = 30.0
    request_timeout_s: float = 120.0
    allow_remote_targets: bool = False
    pass_env: tuple[str, ...] = ()
    sources: Mapping[str, str] = field(default_factory=dict, compare=False)

"""The settings of a run: one frozen dataclass, and where each value came from.

Command line > environment > ini file > default. Keys are no settings: they come from the
environment alone (:data:`.options.API_KEY_VARIABLE`) and are never stored here.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

from .options import (
    API_KEY_VARIABLE,
    BACKEND_URL_VARIABLE,
    DEFAULT_BACKEND_URL,
    OPTIONS,
    PROVIDERS,
    Option,
    is_url,
)

__all__ = [
    "Settings",
    "SettingsError",
    "apply_hooks",
    "check_combinations",
    "check_late_changes",
    "find_missing_key",
    "resolve",
]

_IN_THE_INI_FILE = "in the ini file"
"""The end of such a source."""

_SETTINGS_HOOK = "pytest_synth_tunnels_settings"
_CONNECTORS_HOOK = "pytest_synth_tunnels_connectors"

_TAKEN_NAMES = {*PROVIDERS, "auto", "loopback"}
"""The names that no plugin's provider can have."""


_USED_IN_TESTS_ALONE = frozenset(
    {
        *("app", "har", "inspector", "output", "report", "sources", "start_timeout_s"),
        "traffic_masked",
    }
)
"""The settings that neither the keeper nor its lease has a use for."""


_ORIGIN_SETTINGS = ("bind", "public_host", "public_port", "tls")
"""The settings of the embedded backend's origins, which a URL with a path does not have."""


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
        app: the application, as ``module:attribute``, that each process serves there, or ``None``.
        command_timeout_s: how long the command may take until its port accepts, in seconds.
        share: ``run`` for one lease in all workers, ``worker`` for a lease in each.
        start: ``collection`` to open the tunnel once a collected test needs it, ``session`` before
            any conftest is imported.
        start_timeout_s: how long a fixture waits for the keeper and its lease, in seconds.
        request_timeout_s: how long a caller waits for the app's answer, in seconds.
        allow_remote_targets: whether a target may be another machine.
        pass_env: names of further environment variables that the keeper gets.
        provider: what gives the leases their public URL.
        url_style: ``root`` for a public URL that is an origin of its own, ``path`` for one with a
            path; ``None`` for ``root`` where a lease can have an origin, else ``path``.
        bind: where the origins of the embedded backend's leases listen: an address, an interface
            of this machine, or ``0.0.0.0`` or ``::`` for all of them.
        public_host: the host that their URLs name; ``None`` for the address that is listened on.
        public_port: the port of the origin of the run's lease; ``None`` for any free one.
        tls: whether the origins of the embedded backend speak https.
        require_token: whether callers of the run's lease must send the worker token.
        host_header: what apps see as ``Host``: ``auto``, ``target``, ``public`` or a host.
        strip_prefix: whether apps see their paths without the path of the public URL.
        traffic: whether requests and answers are recorded.
        traffic_body_bytes: how much of each body is recorded, in bytes.
        har: when a test's traffic is written as a HAR file: ``off``, ``on`` or
            ``retain-on-failure``.
        output: the folder for files that the run writes; a relative one is below pytest's root
            directory.
        report: the file for a page with the run's traffic, or ``None``; a relative one is below the
            folder where pytest was started, or below pytest's root directory where the ini file
            names it.
        inspector: whether a page shows the run's traffic as it flows: ``off``, ``on``, or ``hold``
            to keep it after the last test until Ctrl-C.
        traffic_masked: names of headers, parameters, form fields and JSON keys whose values are
            keys, besides the usual ones, as globs such as ``x-internal-*``. No option; the hook
            ``pytest_synth_tunnels_settings`` gives them.
        cloudflared: the cloudflared binary, a path or a name to look for on ``PATH``; ``None`` for
            ``cloudflared``.
        connectors: the providers that plugins of the run bring, by name: ``module:Class``. No
            option; the hook ``pytest_synth_tunnels_connectors`` gives them.
        sources: for each setting that differs from its default, where it came from.
    """

    backend: str = "auto"
    backend_url: str | None = None
    ttl_s: float = 14_400.0
    port: int | None = None
    command: str | None = None
    app: str | None = None
    command_timeout_s: float = 60.0
    share: str = "run"
    start: str = "collection"
    start_timeout_s: float = 30.0
    request_timeout_s: float = 120.0
    allow_remote_targets: bool = False
    pass_env: tuple[str, ...] = ()
    provider: str = "synthtunnel"
    url_style: str | None = None
    bind: str = "127.0.0.1"
    public_host: str | None = None
    public_port: int | None = None
    tls: bool = False
    require_token: bool = True
    host_header: str = "auto"
    strip_prefix: bool = True
    traffic: bool = True
    traffic_body_bytes: int = 65_536
    har: str = "off"
    output: str = "synth-tunnels-results"
    report: str | None = None
    inspector: str = "off"
    traffic_masked: tuple[str, ...] = ()
    cloudflared: str | None = None
    connectors: Mapping[str, str] = field(default_factory=dict)
    sources: Mapping[str, str] = field(default_factory=dict, compare=False)

    def is_from_ini(self, name: str) -> bool:
        """Whether a setting was given in the ini file."""
        return self.sources.get(name) == f"synth_tunnels_{name} {_IN_THE_INI_FILE}"

    @property
    def has_placed_origins(self) -> bool:
        """Whether something is said of where the embedded backend's origins are."""
        return any(getattr(self, name) != getattr(_DEFAULTS, name) for name in _ORIGIN_SETTINGS)

    def to_json(self) -> dict[str, Any]:
        """Return what the keeper needs of this, as builtin types."""
        return {name: value for name, value in asdict(self).items() if name != "sources"}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "Settings":
        """Read what :meth:`to_json` gave."""
        known = {f.name: values[f.name] for f in fields(cls) if f.name in values}
        for name in ("pass_env", "traffic_masked"):
            known[name] = tuple(known.get(name, ()))
        return cls(**known)


_DEFAULTS = Settings()


def resolve(
    command_line: Callable[[Option], str | None],
    environ: Mapping[str, str],
    ini: Callable[[Option], str | None],
) -> Settings:
    """Work out the settings of a run.

    Args:
        command_line: gives an option's text from the command line, or ``None``.
        environ: the environment.
        ini: gives an option's text from the ini file, or ``None``.

    Raises:
        SettingsError: a value cannot be used; the message names the setting and its source.
    """
    values: dict[str, Any] = {}
    sources: dict[str, str] = {}
    for option in OPTIONS:
        candidates = (
            (option.flag, command_line(option)),
            (f"${option.variable}", environ.get(option.variable) or None),
            (f"{option.ini} {_IN_THE_INI_FILE}", ini(option)),
        )
        source, text = next((c for c in candidates if c[1] is not None), ("", None))
        if text is None:
            continue
        try:
            value = option.parse(text.strip())
        except ValueError as error:
            # A URL may carry a password, which no message shows.
            shown = "" if "@" in text else f" is {text!r}: it"
            raise SettingsError(f"{source}{shown} {error}") from None
        if value != getattr(_DEFAULTS, option.name):
            values[option.name] = value
            sources[option.name] = source
    settings = _with_backend_url(Settings(**values, sources=sources), environ)
    check_combinations(settings)
    return settings


def check_combinations(settings: Settings) -> None:
    """Check what settings mean together.

    Raises:
        SettingsError: the run's lease cannot be as they say.
    """

    def source(name: str) -> str:
        return settings.sources.get(name, name)

    if settings.app is not None and settings.command is not None:
        raise SettingsError(
            f"{source('app')} and {source('command')} each serve the exposed port: leave one out"
        )
    for name, wanted in (
        ("har", settings.har != "off"),
        ("report", settings.report is not None),
        ("inspector", settings.inspector != "off"),
    ):
        if wanted and not settings.traffic:
            raise SettingsError(
                f"{source(name)} is {getattr(settings, name)!r}, and {source('traffic')} is false, "
                "so that nothing is recorded that could be shown: leave one out"
            )
    embedded = settings.backend_url is None
    is_managed = settings.provider != "synthtunnel"
    # The keeper knows which of the other providers make URLs of their own.
    has_path = settings.provider in ("ngrok", "cloudflared")
    if settings.url_style == "root" and (has_path or not (is_managed or embedded)):
        where = f"the provider {settings.provider}" if is_managed else "a hosted relay"
        raise SettingsError(
            f"{source('url_style')} is 'root', and {where} gives every lease a URL with a path: "
            "leave it out, or use the embedded backend with the provider synthtunnel"
        )
    if settings.url_style == "path" and embedded and not is_managed and settings.has_placed_origins:
        given = next(
            name for name in _ORIGIN_SETTINGS if getattr(settings, name) != getattr(_DEFAULTS, name)
        )
        raise SettingsError(
            f"{source('url_style')} is 'path', which gives URLs at the backend's own port, http on "
            f"loopback, and {source(given)} is {getattr(settings, given)!r}: leave one out"
        )
    if settings.public_port is not None and settings.public_port == settings.port:
        raise SettingsError(
            f"{source('public_port')} and {source('port')} are both {settings.port}, and the first "
            "is the tunnel's, the second the app's: choose two"
        )
    if not (settings.require_token or embedded or is_managed):
        raise SettingsError(
            f"{source('require_token')} is false, and a hosted relay always wants the worker token "
            "from its callers: leave it out, or use the embedded backend"
        )


def check_late_changes(early: Settings, late: Settings) -> None:
    """Check that conftests have changed nothing that a tunnel was opened with before them.

    Args:
        early: the settings before any conftest was imported.
        late: the settings with the hooks of conftests.

    Raises:
        SettingsError: they have.
    """
    changed = [
        field.name
        for field in fields(Settings)
        if field.name not in _USED_IN_TESTS_ALONE
        and getattr(early, field.name) != getattr(late, field.name)
    ]
    if changed:
        names = ", ".join(changed)
        raise SettingsError(
            f"a hook of a conftest changes {names}, and the tunnel was open before the conftest "
            "was imported (synth_tunnels_start = session). Set it on the command line, in the "
            "environment, in the ini file or in an installed plugin; or use "
            "synth_tunnels_start = collection"
        )


def find_missing_key(settings: Settings, environ: Mapping[str, str]) -> str | None:
    """Return why the hosted backend that the settings name cannot be used: there is no key for it.

    Args:
        settings: of the run.
        environ: the environment as pytest was started with it.

    Returns:
        The reason, for people; ``None`` if there is a key, or none is needed.
    """
    if settings.backend_url is None or environ.get(API_KEY_VARIABLE, "").strip():
        return None
    source = settings.sources.get("backend", "the backend")
    return f"{source} names the backend {settings.backend_url}, and ${API_KEY_VARIABLE} is not set"


def _with_backend_url(settings: Settings, environ: Mapping[str, str]) -> Settings:
    """Decide between the embedded backend and a URL."""
    url = environ.get(BACKEND_URL_VARIABLE, "").strip()
    if settings.backend == "embedded":
        return settings
    if settings.backend == "auto":
        if not (url and environ.get(API_KEY_VARIABLE, "").strip()):
            return settings
    elif settings.backend == "hosted":
        url = url or DEFAULT_BACKEND_URL
    else:
        url = settings.backend
    if not is_url(url):
        raise SettingsError(f"${BACKEND_URL_VARIABLE} must be an http(s) URL without credentials")
    return replace(settings, backend_url=url)


def apply_hooks(
    settings: Settings,
    connectors: Iterable[Mapping[str, str]],
    adjust: "Callable[[Settings], Settings | None]",
    installed_providers: Callable[[Mapping[str, str]], list[str]],
) -> Settings:
    """Return the settings as the hooks of a run leave them.

    Args:
        settings: as the user gave them.
        connectors: what the implementations of ``pytest_synth_tunnels_connectors`` gave.
        adjust: calls ``pytest_synth_tunnels_settings``.
        installed_providers: returns the names of all providers but the relay's own, given those
            that the hooks brought.

    Raises:
        SettingsError: a hook gave what cannot be used, or nobody knows the provider.
    """
    given = replace(settings, connectors=_join_connectors(connectors))
    adjusted = adjust(given)
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
    _check_provider(given, installed_providers)
    check_combinations(given)
    return given


def _join_connectors(answers: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """Return the providers that the implementations of the hook gave."""
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
            if name in _TAKEN_NAMES or found.get(name, place) != place:
                raise SettingsError(
                    f"{_CONNECTORS_HOOK} gave a provider {name!r}, and there is one already: "
                    "choose another name"
                )
            found[name] = place
    return found


def _check_provider(
    settings: Settings, installed_providers: Callable[[Mapping[str, str]], list[str]]
) -> None:
    if settings.provider in PROVIDERS or settings.provider in settings.connectors:
        return
    known = installed_providers(settings.connectors)
    if settings.provider not in known:
        source = settings.sources.get("provider", _SETTINGS_HOOK)
        names = ", ".join(["synthtunnel", *known])
        raise SettingsError(
            f"{source} is {settings.provider!r}: there is no such provider; known are {names}"
        )

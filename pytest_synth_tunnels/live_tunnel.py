"""``synth-tunnels expose`` and ``synth-tunnels inbox``: a tunnel for a person at a terminal.

It is a run as pytest's is, with the same keeper: this process owns the run, holds the keeper, and
shows what the keeper records. The keeper ends when it is told so, and by itself when this process
has died, however that happened. It has a session of its own, so that Ctrl-C reaches this process
alone, which then has everything released.
"""

import os
import re
import secrets
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from types import FrameType
from typing import Final, TextIO
from urllib.parse import urlsplit

from ._unpatched import unpatched
from .backend.binding import resolve_binding
from .connectors.registry import known_names
from .keeper.ipc.client import KeeperClient
from .keeper.ipc.errors import KeeperError
from .keeper.ipc.messages import (
    Accepts,
    GetTraffic,
    LeaseInfo,
    Message,
    OpenLease,
    OpenTraffic,
    TargetAccepts,
    TrafficAddress,
    TrafficRecord,
    TrafficTimeUp,
    WatchTraffic,
)
from .keeper.process.launch import Run
from .keeper.process.run_directory import RunDirectory
from .options import OPTIONS, Option
from .redact import redact
from .run_waits import RunWaits
from .runtime_base import runtime_base
from .sdk.resolve import is_loopback
from .settings import Settings, SettingsError, apply_hooks, resolve
from .socket_table import has_loopback_listener
from .traffic.exchange import InboundRequest
from .traffic.masking import Masker
from .traffic.text import line
from .wait_display import StreamScreen, WaitDisplay

__all__ = ["LiveTunnel", "StopRequested", "open_keeper", "tunnel_settings"]

_OF_SUITES: Final = frozenset(
    {
        *("port", "command", "app", "share", "start"),
        *("traffic", "har", "output", "report", "inspector"),
    }
)
"""Settings that the environment gives to test runs, and that say nothing of this tunnel."""

_NAMES: Final = {
    "port": "PORT",
    "command": "--command",
    "provider": "--provider",
    "backend": "--backend",
    "url_style": "--url-style",
    "require_token": "--require-token",
}
"""What settings are called here, as far as the command line has them."""

_FINISH_TIMEOUT_S: Final = 20.0
_WATCH_S: Final = 86_400.0
_POLL_S: Final = 0.5
_SLOW_S: Final = 2.0
"""A request that takes longer is shown before its end too."""

_MAX_NUMBERS: Final = 10_000
"""Requests that are remembered."""

_MAX_LINE_BYTES: Final = 96 << 20
"""Of a request with bodies and messages as long as a run may record them."""

_SIGNALS: Final = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
)
"""They ask for the end: by Ctrl-C, by a service manager, by a terminal that is closed."""


class StopRequested(BaseException):
    """A signal asked this process to end."""


class _OutputGoneError(Exception):
    """Nobody reads what is written any more."""


def tunnel_settings(given: Mapping[str, str | None], environ: Mapping[str, str]) -> Settings:
    """Work out the settings of a tunnel.

    Args:
        given: what the command line says, by the settings' names.
        environ: the environment, in which what is meant for test suites alone does not count.

    Raises:
        SettingsError: a value cannot be used; the message names it as the command line does.
    """
    of_suites = {option.variable for option in OPTIONS if option.name in _OF_SUITES}
    known = {name: value for name, value in environ.items() if name not in of_suites}

    def command_line(option: Option) -> str | None:
        return given.get(option.name)

    try:
        settings = apply_hooks(
            resolve(command_line, known, lambda _: None),
            connectors=(),
            adjust=lambda _: None,
            installed_providers=known_names,
        )
    except SettingsError as error:
        raise SettingsError(_as_named_here(str(error))) from None
    token = next(option for option in OPTIONS if option.name == "require_token")
    if settings.backend_url is None and not (known.get(token.variable) or command_line(token)):
        # An origin on this machine is as open to it as the app is without a tunnel; one that others
        # can reach gets a path that nobody can guess.
        settings = replace(settings, require_token=False)
    return settings


def _as_named_here(text: str) -> str:
    """Return a message for pytest's users with the names that settings have here."""
    for option in OPTIONS:
        name = _NAMES.get(option.name, option.variable)
        equals = " " if name.startswith("--") else "="
        names = rf"(?<![\w-])(?:{option.ini}|{option.flag})(?![\w-])"
        text = re.sub(f"{names} = ", name + equals, text)
        text = re.sub(names, name, text)
    return text


def open_keeper(settings: Settings, environ: Mapping[str, str], err: TextIO) -> KeeperClient:
    """Return a hold on the keeper of a new run, which starts with the first request.

    Args:
        settings: of the run.
        environ: its environment.
        err: where a wait of more than two seconds is shown.
    """
    run_id = secrets.token_hex(8)
    directory = RunDirectory(f"{runtime_base(environ)}/{run_id}")
    run = Run(
        run_id=run_id,
        directory=directory,
        owner_pid=os.getpid(),
        address="",
        settings=settings,
        environ=environ,
        cwd=os.getcwd(),
        sys_path=[os.path.abspath(entry) for entry in sys.path],
    )
    display = WaitDisplay(StreamScreen(err))
    return KeeperClient(run, RunWaits(directory, display, rename=_as_named_here))


class LiveTunnel:
    """One tunnel, from its opening to its end.

    Args:
        keeper: of a run that this process owns.
        is_inbox: whether requests are answered without an app.
        has_inspector: whether a page shows the requests too.
        out: where the URL and the requests are written.
        err: where anything else is told.
        now: seconds, by :func:`time.monotonic`.
        listens: says whether a server listens on a port of 127.0.0.1, or ``None`` where the
            kernel does not tell.
    """

    def __init__(
        self,
        keeper: KeeperClient,
        *,
        is_inbox: bool,
        has_inspector: bool = False,
        out: TextIO,
        err: TextIO,
        now: Callable[[], float] = unpatched.monotonic,
        listens: Callable[[int], bool | None] = has_loopback_listener,
    ) -> None:
        self._keeper = keeper
        self._settings = keeper.run.settings
        self._is_inbox = is_inbox
        self._has_inspector = has_inspector
        self._out = out
        self._err = err
        self._now = now
        self._listens = listens
        self._masker = Masker(self._settings.traffic_masked)
        self._info: TrafficAddress | None = None
        """Where requests come, once the tunnel is open."""
        self._awaits_app = False
        """Whether nothing has listened so far where requests are brought."""
        self._next_look_s = 0.0
        """When to look for the app again."""
        self._unfinished: dict[int, _Unfinished] = {}
        """Requests that go on, by number."""
        self._shown: dict[int, None] = {}
        """The numbers of the latest requests that were shown at their end."""
        self._has_told_error = False

    def run(self) -> int:
        """Open the tunnel and show what comes, until a signal or a failure.

        Returns:
            The exit code: 0 after a signal, 1 after a failure, and 130 where the signal came
            before there was a tunnel.
        """
        with _signals_kept():
            came: list[int] = []
            # A keeper that was started by half would be waited for in vain.
            _on_signals(lambda number, _: came.append(number))
            self._keeper.start()
            _on_signals(_raise_stop)
            try:
                if came:
                    raise StopRequested
                self._open_and_follow()
                was_stopped = False
            except StopRequested:
                was_stopped = True
            # From here on a signal ends this process at once, and the keeper releases by itself.
            _on_signals(signal.SIG_DFL)
            self._finish()
        _leave(self._out, self._err)
        if self._has_told_error:
            return 1
        return 130 if was_stopped and self._info is None else 0

    def _open_and_follow(self) -> None:
        try:
            self._open()
            self._follow()
        except _OutputGoneError:
            pass  # whoever wanted to see it has enough
        except KeeperError as error:
            self._fail(str(error))

    # --- opening

    def _open(self) -> None:
        settings = self._settings
        timeout_s = settings.start_timeout_s
        if self._is_inbox:
            question = OpenTraffic(test="synth-tunnels inbox", inbox=True)
            info = self._keeper.ask(question, TrafficAddress, timeout_s)
        else:
            if settings.command is not None:
                timeout_s += settings.command_timeout_s
            lease = self._keeper.ask(OpenLease(), LeaseInfo, timeout_s)
            info = self._current(lease.lease_id, None)
        self._keeper.secrets |= {info.url_secret, *info.headers.values()} - {""}
        self._info = info
        self._awaits_app = bool(info.local_url) and settings.command is None
        self._introduce(info)
        if self._has_inspector:
            # The URL is a secret of the user's, and shown to the user alone.
            self._print(f"Inspector: {self._keeper.open_inspector()}")

    def _current(self, lease_id: str, address: str | None) -> TrafficAddress:
        return self._keeper.ask(GetTraffic(lease_id=lease_id, address=address), TrafficAddress)

    def _introduce(self, info: TrafficAddress) -> None:
        """Say where callers come, and who can."""
        url = info.public_url
        if info.local_url:
            self._print(f"{url} leads to {info.local_url}")
        else:
            self._print(f"{url} is an inbox, which answers every request with 200")
        if info.loopback_url not in ("", url):
            self._print(f"{info.loopback_url} is the same for callers on this machine")
        if info.ca_file:
            self._print(f"Callers must trust the certificate authority in {info.ca_file}")
        for name, value in info.headers.items():
            self._print(f"Callers must send the header {name}: {value}")
        if is_loopback(urlsplit(url).hostname or "") and not _is_exposed(self._settings):
            who = "Only programs on this machine can reach it."
        elif info.headers:
            who = "Whoever has the URL and the header can reach it."
        else:
            who = "Whoever has the URL can reach it."
        self._print(f"{who} Ctrl-C ends it.")

    # --- following

    def _follow(self) -> None:
        """Show what comes; returns when the tunnel is over."""
        info = self._info
        assert info is not None  # noqa: S101 - it is open
        since_s = 0.0
        while not self._has_told_error:
            places = [[info.lease_id, info.address, since_s], ["", "", since_s]]
            connection = self._keeper.connect(_MAX_LINE_BYTES)
            try:
                connection.send(WatchTraffic(places=places, timeout_s=_WATCH_S))
                while not self._has_told_error:
                    message = connection.poll(Message, _POLL_S)
                    if isinstance(message, TrafficTimeUp):
                        break
                    if isinstance(message, TrafficRecord):
                        self._take(InboundRequest.from_data(message.request))
                    self._look_around(info)
            except OSError as error:
                raise self._keeper.explain(error) from None
            finally:
                connection.close()
            since_s = self._now()

    def _take(self, request: InboundRequest) -> None:
        """Show a request at its end."""
        if request.sequence in self._shown:
            return  # its last change was told together with an earlier one
        if request.over:
            self._unfinished.pop(request.sequence, None)
            self._shown[request.sequence] = None
            if len(self._shown) > _MAX_NUMBERS:
                del self._shown[next(iter(self._shown))]
            self._print(self._line(request))
            return
        known = self._unfinished.get(request.sequence)
        if known is not None:
            known.request = request
        elif len(self._unfinished) < _MAX_NUMBERS:
            self._unfinished[request.sequence] = _Unfinished(request, self._now() + _SLOW_S)

    def _line(self, request: InboundRequest) -> str:
        text: str = redact(line(request, self._masker), self._keeper.secrets)
        return text

    def _look_around(self, info: TrafficAddress) -> None:
        """See what has happened besides requests."""
        now_s = self._now()
        for unfinished in self._unfinished.values():
            if not unfinished.is_shown and unfinished.slow_from_s <= now_s:
                unfinished.is_shown = True
                goes_on = ", and goes on" if unfinished.request.answered else ""
                self._print(f"{self._line(unfinished.request)}{goes_on}")
        for event in self._keeper.check():
            if event.kind in ("lost", "failed"):
                self._fail(event.message)
            else:
                self._tell(event.message)
            if event.kind == "moved":
                self._introduce(self._current(info.lease_id, info.address))
        if self._awaits_app and now_s >= self._next_look_s:
            self._look_for_app(info, now_s)

    def _look_for_app(self, info: TrafficAddress, now_s: float) -> None:
        listens = self._listens(urlsplit(info.local_url).port or 0)
        if listens is None:
            question = TargetAccepts(lease_id=info.lease_id, address=info.address)
            listens = self._keeper.ask(question, Accepts).accepts
        if not listens and not self._next_look_s:
            self._tell(f"Nothing listens at {info.local_url} yet: waiting for it.")
        elif listens and self._next_look_s:
            self._tell(f"Something listens at {info.local_url} now.")
        self._awaits_app = not listens
        self._next_look_s = now_s + 1.0

    # --- the end

    def _finish(self) -> None:
        """Have everything released."""
        try:
            report = self._keeper.finish(_FINISH_TIMEOUT_S)
        except KeeperError as error:
            if self._info is not None and not self._has_told_error:
                self._fail(str(error))
            return
        finally:
            self._keeper.run.directory.remove()  # it is there if nothing was started in it
        if report is not None:
            with suppress(_OutputGoneError):
                for text in report.public:
                    self._tell(text)
            for text in report.unreleased:
                self._fail(text)

    # --- writing

    def _print(self, text: str) -> None:
        _write(self._out, _escaped(text))

    def _tell(self, text: str) -> None:
        lines: list[str] = redact(_as_named_here(text).split("\n"), self._keeper.secrets)
        _write(self._err, "\n".join(map(_escaped, lines)))

    def _fail(self, text: str) -> None:
        self._has_told_error = True
        with suppress(_OutputGoneError):
            self._tell(f"synth-tunnels: {text}")


def _is_exposed(settings: Settings) -> bool:
    """Whether something of this program's listens for others than this machine."""
    if settings.backend_url is not None or settings.provider != "synthtunnel":
        return False  # it has no origin of its own
    with suppress(ValueError):  # the interface has gone, and its address with it
        return resolve_binding(settings.bind).is_exposed
    return False


class _Unfinished:
    """A request that goes on.

    Attributes:
        request: as it was told last.
        slow_from_s: when it will be shown before its end.
        is_shown: whether it has been.
    """

    def __init__(self, request: InboundRequest, slow_from_s: float) -> None:
        self.request = request
        self.slow_from_s = slow_from_s
        self.is_shown = False


def _write(stream: TextIO, text: str) -> None:
    """Write lines at once, as far as the stream's encoding has their characters.

    Raises:
        _OutputGoneError: nobody reads them any more.
    """
    encoding = stream.encoding or "utf-8"
    try:
        stream.write(f"{text}\n".encode(encoding, "backslashreplace").decode(encoding))
        stream.flush()
    except (OSError, ValueError):
        raise _OutputGoneError from None


def _escaped(text: str) -> str:
    """Return a text in which nothing controls a terminal."""
    return "".join(
        character
        if character.isprintable()
        else character.encode("unicode_escape", "surrogatepass").decode()
        for character in text
    )


def _leave(*streams: TextIO) -> None:
    """Drop what cannot be written, which the interpreter would complain of at its end."""
    for stream in streams:
        try:
            stream.flush()
        except (OSError, ValueError):
            with suppress(OSError, ValueError):
                null = os.open(os.devnull, os.O_WRONLY)
                os.dup2(null, stream.fileno())
                os.close(null)


def _on_signals(handler: Callable[[int, FrameType | None], None] | signal.Handlers) -> None:
    """Handle the signals that ask for the end; those that are ignored stay so, as ``nohup`` wants
    it."""
    for number in _SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, handler)


def _raise_stop(_number: int, _frame: FrameType | None) -> None:
    _on_signals(signal.SIG_DFL)
    raise StopRequested


@contextmanager
def _signals_kept() -> Iterator[None]:
    """Have signals handled as before at the end of the block."""
    before = {number: signal.getsignal(number) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

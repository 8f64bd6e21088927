"""``synth-tunnels expose`` and ``inbox`` with a keeper that says what the test wants."""

import io
import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from pytest_synth_tunnels import live_tunnel
from pytest_synth_tunnels.keeper.ipc.errors import KeeperError
from pytest_synth_tunnels.keeper.ipc.messages import (
    Accepts,
    Event,
    GetTraffic,
    LeaseInfo,
    OpenLease,
    OpenTraffic,
    Report,
    TargetAccepts,
    TrafficAddress,
    TrafficCaughtUp,
    TrafficRecord,
    TrafficTimeUp,
    WatchTraffic,
)
from pytest_synth_tunnels.live_tunnel import LiveTunnel, tunnel_settings
from pytest_synth_tunnels.settings import SettingsError

from .support.keeper_server import run_in
from .support.recorded import message, recorded, response

pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")

TOKEN = "wt_0123456789"


def address(**values: Any) -> TrafficAddress:
    known = {
        "lease_id": "lease-1",
        "address": "",
        "own_address": "",
        "public_url": "http://127.0.0.1:4000",
        "loopback_url": "http://127.0.0.1:4000",
        "headers": {},
        "url_secret": "",
        "ca_file": "",
        "local_url": "http://127.0.0.1:8000",
        "provider": "synthtunnel",
    }
    return TrafficAddress(**{**known, **values})


REPORT = Report(
    created=1, released=1, events=[], unreleased=[], public=[], traffic=[], lease_events=[]
)


class Stop:
    """A step of a script: Ctrl-C."""


class Keeper:
    """A keeper whose steps are messages, exceptions, events, and functions to be called."""

    def __init__(self, path: Path, *steps: Any, info: TrafficAddress | None = None) -> None:
        self.run = run_in(path / "u" / "r", require_token=False)
        self.secrets: set[str] = set()
        self.info = info or address()
        self.accepts: list[bool] = []
        self.report: Report | KeeperError = REPORT
        self.asked: list[Any] = []
        self.refusal: KeeperError | None = None
        self._steps = list(steps)
        self._events: list[Event] = []

    def start(self) -> None: ...

    def ask(self, question: Any, answer: type[Any], timeout_s: float | None = None) -> Any:
        self.asked.append(question)
        if self.refusal is not None:
            raise self.refusal
        if isinstance(question, OpenLease):
            return LeaseInfo(
                **dict.fromkeys(LeaseInfo.fields, "")
                | {"lease_id": "lease-1", "headers": {}, "worker_token": None, "local_port": 1}
            )
        if isinstance(question, TargetAccepts):
            return Accepts(accepts=self.accepts.pop(0))
        assert isinstance(question, GetTraffic | OpenTraffic)
        return self.info

    def connect(self, _: int) -> "Keeper":
        return self

    def send(self, question: Any) -> None:
        self.asked.append(question)

    def poll(self, _: type[Any], __: float) -> Any:
        step = self._steps.pop(0) if self._steps else Stop()
        if isinstance(step, Stop):
            os.kill(os.getpid(), signal.SIGINT)
            return None
        if isinstance(step, Exception):
            raise step
        if isinstance(step, Event):
            self._events.append(step)
            return None
        return step() if callable(step) else step

    def open_inspector(self) -> str:
        return "http://127.0.0.1:5000/secret/"

    def check(self) -> list[Event]:
        events, self._events = self._events, []
        return events

    def explain(self, error: OSError) -> KeeperError:
        return KeeperError(f"the tunnel keeper of this run is gone ({error})", code="KEEPER_DIED")

    def close(self) -> None: ...

    def finish(self, _: float) -> Report:
        if isinstance(self.report, KeeperError):
            raise self.report
        return self.report


@pytest.fixture
def runtime_path() -> Iterator[str]:
    """A runtime directory with a short path, as a socket in it needs."""
    with TemporaryDirectory(prefix="st-") as path:
        yield path


@pytest.fixture
def run() -> Callable[..., tuple[int, list[str], list[str]]]:
    def run(keeper: Keeper, *, inbox: bool = False, **options: Any) -> Any:
        out, err = io.StringIO(), io.StringIO()
        options = {"listens": lambda _: True, **options}
        before = signal.getsignal(signal.SIGINT)
        tunnel = LiveTunnel(keeper, is_inbox=inbox, out=out, err=err, **options)  # type: ignore[arg-type]
        code = tunnel.run()
        assert signal.getsignal(signal.SIGINT) is before
        return code, out.getvalue().splitlines(), err.getvalue().splitlines()

    return run


def came(*arguments: Any, **values: Any) -> TrafficRecord:
    return TrafficRecord(request=recorded(*arguments, **values).to_data())


def without_time(line: str) -> str:
    return line.partition("  ")[2]


def test_what_comes_is_shown_until_ctrl_c(run: Any, tmp_path: Path) -> None:
    keeper = Keeper(
        tmp_path,
        TrafficCaughtUp(dropped=0),
        came("POST", "/hooks/paid", query="token=secret&n=1", sequence=1),
        came("GET", "/missing", sequence=2, answer=response(404)),
        came("GET", "/", sequence=3, answered_by="tunnel", error="APP_DOWN: no app"),
    )

    code, out, err = run(keeper)

    assert (code, err) == (0, [])
    assert out[:2] == [
        "http://127.0.0.1:4000 leads to http://127.0.0.1:8000",
        "Only programs on this machine can reach it. Ctrl-C ends it.",
    ]
    assert [without_time(line) for line in out[2:]] == [
        "POST /hooks/paid?token=***&n=1  200  5 ms  by the app",
        "GET /missing  404  5 ms  by the app",
        "GET /  200  5 ms  by the tunnel: APP_DOWN: no app",
    ]
    watch = next(one for one in keeper.asked if isinstance(one, WatchTraffic))
    assert watch.places == [["lease-1", "", 0.0], ["", "", 0.0]]


def test_nothing_in_a_line_controls_the_terminal(run: Any, tmp_path: Path) -> None:
    path = "/\x1b[2J\x9b\r\n\u202eevil\ud800é"

    _, out, _ = run(Keeper(tmp_path, came("GET", path)))

    assert [without_time(line) for line in out[2:]] == [
        r"GET /\x1b[2J\x9b\r\n\u202eevil\ud800é  200  5 ms  by the app"
    ]


def test_the_run_s_own_secrets_are_not_shown(run: Any, tmp_path: Path) -> None:
    info = address(
        public_url="https://relay.example/s/rt_5ec7e7",
        loopback_url="",
        headers={"x-token": TOKEN},
        url_secret="rt_5ec7e7",
    )

    _, out, _ = run(Keeper(tmp_path, came("GET", f"/s/rt_5ec7e7/{TOKEN}"), info=info))

    assert out[:3] == [
        "https://relay.example/s/rt_5ec7e7 leads to http://127.0.0.1:8000",
        f"Callers must send the header x-token: {TOKEN}",
        "Whoever has the URL and the header can reach it. Ctrl-C ends it.",
    ]
    assert without_time(out[3]).startswith("GET /s/***/***  200")


def test_a_tunnel_for_callers_in_containers(run: Any, tmp_path: Path) -> None:
    info = address(public_url="http://host.test:4000/s/rt_1", loopback_url="http://127.0.0.1:4000")

    _, out, _ = run(Keeper(tmp_path, info=info))

    assert out == [
        "http://host.test:4000/s/rt_1 leads to http://127.0.0.1:8000",
        "http://127.0.0.1:4000 is the same for callers on this machine",
        "Whoever has the URL can reach it. Ctrl-C ends it.",
    ]


@pytest.mark.parametrize(
    ("settings", "who"),
    [
        ({"bind": "[::1]"}, "Only programs on this machine can reach it."),
        ({"bind": "localhost"}, "Only programs on this machine can reach it."),
        (
            {"bind": "0.0.0.0", "provider": "loopback"},
            "Only programs on this machine can reach it.",
        ),
        ({"bind": "0.0.0.0"}, "Whoever has the URL can reach it."),
        ({"bind": "gone0"}, "Only programs on this machine can reach it."),
    ],
)
def test_who_can_reach_it_is_told(
    run: Any, tmp_path: Path, settings: dict[str, str], who: str
) -> None:
    keeper = Keeper(tmp_path)
    keeper.run = replace(keeper.run, settings=replace(keeper.run.settings, **settings))  # type: ignore[arg-type]

    _, out, _ = run(keeper)

    assert out[1] == f"{who} Ctrl-C ends it."


def test_who_vouches_for_https_is_told(run: Any, tmp_path: Path) -> None:
    _, out, _ = run(Keeper(tmp_path, info=address(ca_file="/run/ca.pem")))

    assert out[1] == "Callers must trust the certificate authority in /run/ca.pem"


def test_the_inspector_s_url_is_shown_to_the_user(run: Any, tmp_path: Path) -> None:
    _, out, _ = run(Keeper(tmp_path), has_inspector=True)

    assert out[2:] == ["Inspector: http://127.0.0.1:5000/secret/"]


def test_a_slow_request_is_shown_before_its_end_too(run: Any, tmp_path: Path) -> None:
    now_s = 0.0

    def later(by_s: float) -> Callable[[], None]:
        def step() -> None:
            nonlocal now_s
            now_s += by_s

        return step

    waits = {"answered_by": None, "over": False}
    keeper = Keeper(
        tmp_path,
        came("GET", "/quick", sequence=1, **waits),
        came("GET", "/slow", sequence=2, **waits),
        later(1.9),
        came("GET", "/quick", sequence=1),
        later(0.2),
        later(5.0),
        came("GET", "/slow", sequence=2),
        came("GET", "/socket", sequence=3, websocket=True, over=False, answer=response(101)),
        later(3.0),
        came(
            "GET",
            "/socket",
            sequence=3,
            websocket=True,
            messages=[message("a")],
            answer=response(101),
        ),
    )

    _, out, _ = run(keeper, now=lambda: now_s)

    assert [without_time(line) for line in out[2:]] == [
        "GET /quick  200  5 ms  by the app",
        "GET /slow  not answered yet",
        "GET /slow  200  5 ms  by the app",
        "GET /socket  101  5 ms  by the app  WebSocket, 0 messages, and goes on",
        "GET /socket  101  5 ms  by the app  WebSocket, 1 message",
    ]


def test_a_request_is_shown_once_at_its_end(run: Any, tmp_path: Path) -> None:
    _, out, _ = run(Keeper(tmp_path, came("GET", "/"), came("GET", "/")))

    assert len(out) == 3


@pytest.mark.parametrize("asks_kernel", [True, False])
def test_an_app_that_does_not_listen_yet_is_waited_for(
    run: Any, tmp_path: Path, asks_kernel: bool
) -> None:
    answers = [False, False, True]
    times = iter(range(100))
    keeper = Keeper(tmp_path, *[None] * 6)
    keeper.accepts = answers.copy()

    _, _, err = run(
        keeper,
        now=lambda: float(next(times)),
        listens=lambda _: answers.pop(0) if asks_kernel else None,
    )

    assert err == [
        "Nothing listens at http://127.0.0.1:8000 yet: waiting for it.",
        "Something listens at http://127.0.0.1:8000 now.",
    ]
    assert not (answers if asks_kernel else keeper.accepts)


def test_an_inbox_waits_for_no_app(run: Any, tmp_path: Path) -> None:
    keeper = Keeper(tmp_path, info=address(local_url="", address="t1"))

    code, out, err = run(keeper, inbox=True, listens=lambda _: False)

    assert (code, err) == (0, [])
    assert out[0] == "http://127.0.0.1:4000 is an inbox, which answers every request with 200"
    assert isinstance(keeper.asked[0], OpenTraffic)
    assert keeper.asked[0].inbox


@pytest.mark.parametrize("kind", ["lost", "failed"])
def test_a_tunnel_that_is_over_ends_the_program(run: Any, tmp_path: Path, kind: str) -> None:
    told = "synth_tunnels_command ended (exit status 1); it said:\n  bad \x1b[31mluck"
    keeper = Keeper(tmp_path, Event(kind=kind, lease_id="", shared=True, message=told), Stop())

    code, _, err = run(keeper)

    assert code == 1
    assert err == [
        "synth-tunnels: --command ended (exit status 1); it said:",
        r"  bad \x1b[31mluck",
    ]


def test_a_tunnel_that_goes_on_elsewhere(run: Any, tmp_path: Path) -> None:
    moved = Event(kind="moved", lease_id="lease-1", shared=True, message="another URL")
    keeper = Keeper(tmp_path)

    def move() -> None:
        keeper.info = address(public_url="https://new.example", loopback_url="")
        keeper._events.append(moved)

    keeper._steps.append(move)
    code, out, err = run(keeper)

    assert (code, err) == (0, ["another URL"])
    assert out[2:] == [
        "https://new.example leads to http://127.0.0.1:8000",
        "Whoever has the URL can reach it. Ctrl-C ends it.",
    ]


def test_the_longest_watch_is_followed_by_another(run: Any, tmp_path: Path) -> None:
    keeper = Keeper(tmp_path, TrafficTimeUp(), came("GET", "/"))

    _, out, _ = run(keeper, now=lambda: 70.0)

    assert len(out) == 3
    watches = [one.places[0][2] for one in keeper.asked if isinstance(one, WatchTraffic)]
    assert watches == [0.0, 70.0]


def test_a_keeper_that_dies_is_told_once(run: Any, tmp_path: Path) -> None:
    keeper = Keeper(tmp_path, ConnectionResetError("closed"))
    keeper.report = KeeperError("the tunnel keeper of this run is gone", code="KEEPER_DIED")

    code, _, err = run(keeper)

    assert code == 1
    assert err == ["synth-tunnels: the tunnel keeper of this run is gone (closed)"]


def test_a_refusal_is_told_with_the_names_of_the_command_line(run: Any, tmp_path: Path) -> None:
    keeper = Keeper(tmp_path)
    keeper.refusal = KeeperError(
        "port 8000 is in use already, so synth_tunnels_command was not started",
        code="COMMAND_FAILED",
        hint="Stop it, set synth_tunnels_port to another port, or synth_tunnels_ttl_s = 5",
    )

    code, out, err = run(keeper)

    assert (code, out) == (1, [])
    (told,) = err
    assert told == (
        "synth-tunnels: port 8000 is in use already, so --command was not started. Stop it, set "
        "PORT to another port, or SYNTH_TUNNELS_TTL_S=5"
    )


def test_what_could_not_be_released_is_told(run: Any, tmp_path: Path) -> None:
    keeper = Keeper(tmp_path)
    keeper.report = Report(
        **REPORT.__dict__ | {"public": ["port 8000 was public"], "unreleased": ["lease x stays"]}
    )

    code, _, err = run(keeper)

    assert (code, err) == (1, ["port 8000 was public", "synth-tunnels: lease x stays"])


def test_a_signal_before_there_is_a_tunnel(run: Any, tmp_path: Path) -> None:
    keeper = Keeper(tmp_path)
    keeper.report = KeeperError("it did not start", code="KEEPER_NOT_STARTED")

    def ask(*_: Any) -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    keeper.ask = ask  # type: ignore[method-assign]

    assert run(keeper) == (130, [], [])
    assert not Path(keeper.run.directory.path).exists()


def test_signals_while_the_keeper_is_being_started(run: Any, tmp_path: Path) -> None:
    keeper = Keeper(tmp_path)
    is_started = False

    def start() -> None:
        nonlocal is_started
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        is_started = True

    keeper.start = start  # type: ignore[method-assign]

    assert run(keeper) == (130, [], [])
    assert is_started
    assert not keeper.asked


def test_nobody_reads_any_more(tmp_path: Path) -> None:
    class Closed(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError

    keeper: Any = Keeper(tmp_path)

    assert LiveTunnel(keeper, is_inbox=False, out=Closed(), err=Closed()).run() == 0


def test_a_signal_that_is_ignored_stays_so(run: Any, tmp_path: Path) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        keeper = Keeper(tmp_path, lambda: os.kill(os.getpid(), signal.SIGHUP), came("GET", "/"))
        _, out, _ = run(keeper)
    finally:
        signal.signal(signal.SIGHUP, before)

    assert len(out) == 3


def test_what_is_meant_for_suites_does_not_count() -> None:
    environ = {
        "SYNTH_TUNNELS_COMMAND": "serve {port}",
        "SYNTH_TUNNELS_PORT": "9",
        "SYNTH_TUNNELS_APP": "shop:app",
        "SYNTH_TUNNELS_TRAFFIC": "false",
        "SYNTH_TUNNELS_HAR": "on",
        "SYNTH_TUNNELS_TTL_S": "60",
    }

    settings = tunnel_settings({"port": "8000"}, environ)

    assert (settings.port, settings.command, settings.app) == (8000, None, None)
    assert (settings.traffic, settings.har, settings.ttl_s) == (True, "off", 60.0)


@pytest.mark.parametrize(
    ("given", "environ", "wanted"),
    [
        ({}, {}, False),
        ({"require_token": "true"}, {}, True),
        ({}, {"SYNTH_TUNNELS_REQUIRE_TOKEN": "true"}, True),
        ({"backend": "https://relay.example"}, {}, True),
        ({}, {"SYNTH_API_KEY": "sk", "SYNTH_BACKEND_URL": "https://relay.example"}, True),
    ],
)
def test_a_token_is_wanted_where_strangers_could_call(
    given: dict[str, str], environ: dict[str, str], wanted: bool
) -> None:
    assert tunnel_settings({"port": "8000", **given}, environ).require_token is wanted


def test_a_hosted_relay_always_wants_the_token() -> None:
    with pytest.raises(SettingsError, match=r"^\$SYNTH_TUNNELS_REQUIRE_TOKEN is false"):
        tunnel_settings(
            {"backend": "https://relay.example"}, {"SYNTH_TUNNELS_REQUIRE_TOKEN": "false"}
        )


def test_each_tunnel_is_a_run_of_its_own(runtime_path: str) -> None:
    settings = tunnel_settings({"port": "8000"}, {})
    environ = {"XDG_RUNTIME_DIR": runtime_path}

    runs = [live_tunnel.open_keeper(settings, environ, io.StringIO()).run for _ in range(2)]

    assert runs[0].directory.path != runs[1].directory.path
    assert all(run.directory.path.startswith(f"{runtime_path}/") for run in runs)
    assert all(run.owner_pid == os.getpid() for run in runs)

"""What a pytest process knows of its run, with a configuration and a keeper that the test makes."""

import errno
import os
import socket
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pytest_synth_tunnels._unpatched import unpatched
from pytest_synth_tunnels.keeper.ipc.errors import KeeperError
from pytest_synth_tunnels.keeper.ipc.messages import Event, Port, Report
from pytest_synth_tunnels.run_waits import RunWaits, ToldWaits
from pytest_synth_tunnels.session import Session, uses_tunnels

REPORT = Report(
    created=2,
    released=1,
    events=["a lease expires soon"],
    unreleased=["lease_2 was not released"],
    public=["port 8000 was public"],
    traffic=[],
    lease_events=[],
)


class Hook:
    """A hook that its implementation, if there is one, answers."""

    def __init__(self, answer: Callable[..., Any] | None, empty: Any = None) -> None:
        self._answer = answer
        self._empty = empty

    def get_hookimpls(self) -> list[object]:
        return [] if self._answer is None else [self._answer]

    def __call__(self, **values: Any) -> Any:
        return self._empty if self._answer is None else self._answer(**values)


def config(tmp_path: Path, *, hooks: dict[str, Any] | None = None, **worker: Any) -> Any:
    """Return a configuration without options; ``worker`` is what a controller handed on."""
    names = {
        "pytest_synth_tunnels_settings": None,
        "pytest_synth_tunnels_connectors": [],
        "pytest_synth_lease_created": None,
        "pytest_synth_lease_lost": None,
        "pytest_synth_lease_released": None,
    }
    found = SimpleNamespace(
        invocation_params=SimpleNamespace(dir=tmp_path),
        stash=pytest.Stash(),
        hook=SimpleNamespace(
            **{name: Hook((hooks or {}).get(name), empty) for name, empty in names.items()}
        ),
        getoption=lambda name: None,
        getini=lambda name: "",
    )
    if worker:
        found.workerinput = {"synth_tunnels": worker}
    return found


class FakeKeeper:
    """A keeper's client that says what the test wants."""

    def __init__(self, **answers: Any) -> None:
        self._answers = answers
        self.secrets = {"wt_1"}

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def answer(*_: Any) -> Any:
            answer = self._answers[name]
            if isinstance(answer, Exception):
                raise answer
            return answer

        return answer


def session(tmp_path: Path, **options: Any) -> Session:
    return Session(config(tmp_path, **options), lambda _: None)


@pytest.fixture(autouse=True)
def runtime(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's runtime directory, with a path that leaves room for a socket's."""
    path = tmp_path_factory.mktemp("r")
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(path))
    return path


def test_a_process_of_its_own_owns_its_run(tmp_path: Path, runtime: Path) -> None:
    one, other = session(tmp_path), session(tmp_path)

    assert one.is_owner
    assert one.directory_path != other.directory_path
    assert Path(one.directory_path).is_relative_to(runtime)


def test_a_worker_belongs_to_its_controller_s_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    controller = session(tmp_path)
    given = controller.worker_input("gw1")
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/elsewhere")

    worker = session(tmp_path, **(given | {"owner_pid": os.getppid()}))

    assert {type(value) for value in given.values()} == {str, int}
    assert worker.directory_path == controller.directory_path
    assert not worker.is_owner


def test_a_wrong_value_is_a_usage_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SYNTH_TUNNELS_PORT", "many")
    made = session(tmp_path)

    assert made.has_settings()
    with pytest.raises(pytest.UsageError, match=r"^synth-tunnels: \$SYNTH_TUNNELS_PORT is 'many'"):
        _ = made.settings


def test_settings_are_resolved_once(tmp_path: Path) -> None:
    asked: list[object] = []
    made = session(tmp_path, hooks={"pytest_synth_tunnels_settings": lambda **v: asked.append(v)})

    assert made.has_settings()
    assert made.settings is made.settings
    assert len(asked) == 1


def test_no_process_to_be_had_is_told_by_the_first_request(
    tmp_path: Path, runtime: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> int:
        raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")

    monkeypatch.setattr(unpatched, "posix_spawn", refuse)
    made = session(tmp_path)

    made.start_keeper()

    with pytest.raises(KeeperError, match=r"cannot start the tunnel keeper: .*temporarily"):
        made.reserve_port()
    made.abandon()


def test_all_threads_get_one_keeper(tmp_path: Path) -> None:
    first_uses: list[Session] = []
    made = Session(config(tmp_path), first_uses.append)
    assert not made.has_keeper
    assert made.secrets() == set()

    with ThreadPoolExecutor(8) as threads:
        keepers = set(threads.map(lambda _: made.keeper, range(64)))

    assert len(keepers) == 1
    assert first_uses == [made]
    assert made.has_keeper


def test_secrets_are_the_keeper_s_and_the_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SYNTH_API_KEY", " sk_1 ")
    made = session(tmp_path)
    made._keeper = FakeKeeper()  # type: ignore[assignment]

    assert made.secrets() == {"wt_1", "sk_1"}


@pytest.mark.parametrize(
    ("kind", "shared", "has_lease", "lost"),
    [
        ("lost", True, True, True),
        ("lost", True, False, False),
        ("lost", False, True, False),
        ("offline", True, True, False),
        ("failed", True, False, True),
    ],
)
def test_which_events_end_later_tests(
    tmp_path: Path, kind: str, shared: bool, has_lease: bool, lost: bool
) -> None:
    event = Event(kind=kind, lease_id="lease_1", shared=shared, message="it is gone")
    made = session(tmp_path)
    made.has_lease = has_lease
    made._keeper = FakeKeeper(check=[event])  # type: ignore[assignment]

    assert made.check() == [event]
    assert made.lost == ("it is gone" if lost else None)


def test_hooks_are_called_in_the_owner_alone(tmp_path: Path) -> None:
    told: list[Any] = []
    event = {
        "kind": "lost",
        "reason": "gone",
        "lease": {
            "lease_id": "lease_1",
            "provider": "synthtunnel",
            "backend": "http://127.0.0.1:1",
            "local_host": "127.0.0.1",
            "local_port": 8000,
            "public_url": None,
            "created_at": 1.0,
            "ended_at": None,
        },
    }
    hooks = {"pytest_synth_lease_lost": lambda **values: told.append(values["reason"])}
    owner, worker = session(tmp_path, hooks=hooks), session(tmp_path, hooks=hooks, owner_pid=1)
    for made in (owner, worker):
        made._keeper = FakeKeeper(take_lease_events=[event])  # type: ignore[assignment]
        made.tell()

    assert told == ["gone"]


def test_a_keeper_that_died_tells_no_hook(tmp_path: Path) -> None:
    made = session(tmp_path, hooks={"pytest_synth_lease_lost": lambda **_: None})
    died = KeeperError("it is gone", code="KEEPER_DIED")
    made._keeper = FakeKeeper(take_lease_events=died)  # type: ignore[assignment]

    made.tell()

    assert made.trouble == []


def test_the_end_of_a_run_that_used_no_tunnel_is_nothing(tmp_path: Path) -> None:
    made = session(tmp_path)

    made.finish()
    made.close()

    assert not made.has_keeper


@pytest.mark.parametrize(
    ("answer", "trouble"),
    [
        (REPORT, [*REPORT.public, *REPORT.events, *REPORT.unreleased]),
        (None, []),
        (KeeperError("it is gone", code="KEEPER_DIED", hint="Look"), ["it is gone. Look"]),
        (KeeperError("it did not start", code="KEEPER_NOT_STARTED"), []),
    ],
)
def test_what_the_end_of_a_run_has_to_tell(tmp_path: Path, answer: Any, trouble: list[str]) -> None:
    made = session(tmp_path)
    Path(made.directory_path).mkdir(parents=True)
    made._keeper = FakeKeeper(finish=answer)  # type: ignore[assignment]

    made.finish()

    assert made.trouble == trouble
    assert made.report is (answer if isinstance(answer, Report) else None)


class PortKeeper(FakeKeeper):
    """Counts how often the keeper is asked to free the port."""

    asked = 0

    def ask(self, *_: Any) -> Port:
        self.asked += 1
        return Port(port=1)


@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux")
def test_the_keeper_frees_a_port_that_no_server_has_and_none_can_bind(tmp_path: Path) -> None:
    made = session(tmp_path)
    keeper = PortKeeper()
    made._keeper = keeper  # type: ignore[assignment]
    made.free_port()
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        made.port = server.getsockname()[1]
        server.listen()
        made.free_port()
        assert keeper.asked == 0, "a server is there"
        with socket.create_connection(server.getsockname(), 10), server.accept()[0] as accepted:
            server.close()
            made.free_port()
            assert keeper.asked == 1
            accepted.close()
    made.port = None
    made.free_port()
    assert keeper.asked == 1


@pytest.mark.parametrize(
    ("names", "uses"),
    [(["synth_lease"], True), (["tmp_path", "exposed_port"], True), (["tmp_path"], False)],
)
def test_which_tests_use_tunnels(names: list[str], uses: bool) -> None:
    item: Any = SimpleNamespace(fixturenames=names)

    assert uses_tunnels(item) is uses


def test_an_item_without_fixtures_uses_none() -> None:
    item: Any = SimpleNamespace()

    assert not uses_tunnels(item)


posix = pytest.mark.skipif(os.name != "posix", reason="sockets have paths there")


def test_an_inspector_opens_once_settings_ask_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = "http://127.0.0.1:9/secret/"
    keeper: Any = FakeKeeper(start=None, open_inspector=url, finish=REPORT)
    plain = session(tmp_path)
    plain._keeper = keeper
    plain.open_inspector()
    assert plain.inspector_url == ""

    monkeypatch.setenv("SYNTH_TUNNELS_INSPECTOR", "on")
    worker = session(tmp_path, run_id="r", base="/b", owner_pid=os.getppid(), address="gw0")
    worker._keeper = keeper
    worker.open_inspector()
    assert worker.inspector_url == ""

    owner = session(tmp_path)
    owner._keeper = keeper
    owner.open_inspector()
    assert owner.inspector_url == url
    assert not owner.is_used, "the page alone is no use of the tunnel"
    owner.start([])
    assert owner.has_keeper, "it is needed until the end of the run"


def test_an_inspector_that_cannot_be_opened_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SYNTH_TUNNELS_INSPECTOR", "on")
    made = session(tmp_path)
    keeper: Any = FakeKeeper(start=None, open_inspector=KeeperError("no port is free"))
    made._keeper = keeper

    made.open_inspector()

    assert made.inspector_url == ""
    assert made.trouble == ["the inspector cannot be opened: no port is free"]


def with_terminal(tmp_path: Path, verbose: int, worker_id: str = "") -> tuple[Session, list[str]]:
    """Return a session whose keeper is starting, and what the terminal shows of it."""
    lines: list[str] = []
    reporter = SimpleNamespace(
        isatty=False,
        ensure_newline=lambda: None,
        write_line=lines.append,
        flush=lambda: None,
        _tw=SimpleNamespace(width_of_current_line=0),
    )
    found = config(tmp_path)
    if worker_id:
        found.workerinput = {"workerid": worker_id}
    found.pluginmanager = SimpleNamespace(get_plugin={"terminalreporter": reporter}.get)
    made = Session(found, lambda _: None, get_option={"verbose": verbose}.get)
    return made, lines


@pytest.mark.parametrize(
    ("verbose", "worker_id", "shown"), [(0, "", 1), (1, "", 1), (-1, "", 0), (0, "gw0", 0)]
)
def test_a_wait_is_shown_where_there_is_a_terminal(
    tmp_path: Path, verbose: int, worker_id: str, shown: int
) -> None:
    made, lines = with_terminal(tmp_path, verbose, worker_id)

    made.waiting(4.0)
    made.over()

    assert lines == ["synth tunnels: waiting 4 s for the tunnel keeper to start"] * shown


def test_a_wait_of_another_thread_is_not_shown(tmp_path: Path) -> None:
    made, lines = with_terminal(tmp_path, 0)

    with ThreadPoolExecutor(1) as threads:
        threads.submit(made.waiting, 4.0).result()
        threads.submit(made.over).result()

    assert lines == []


def test_a_controller_looks_only_once_there_is_a_run(tmp_path: Path) -> None:
    made, lines = with_terminal(tmp_path, 0)
    made._base = str(tmp_path)

    made.show_waits()
    assert made._waits is None
    claim = Path(made.directory_path) / "claim"
    claim.mkdir(parents=True)
    made.show_waits()
    assert made._waits is not None
    made.pause_waits()
    assert lines == []


def test_who_takes_the_waits_for_an_app(tmp_path: Path) -> None:
    assert isinstance(with_terminal(tmp_path, 0)[0].app_waits(), RunWaits)
    assert with_terminal(tmp_path, -1)[0].app_waits() is None
    assert isinstance(with_terminal(tmp_path, -1, worker_id="gw0")[0].app_waits(), ToldWaits)

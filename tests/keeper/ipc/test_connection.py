"""One connection to a keeper that says what the test wants, well or badly."""

import json
import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest

from pytest_synth_tunnels.keeper.ipc import connection as connection_module
from pytest_synth_tunnels.keeper.ipc.connection import KeeperConnection
from pytest_synth_tunnels.keeper.ipc.errors import KeeperError
from pytest_synth_tunnels.keeper.ipc.messages import (
    MAX_LINE_BYTES,
    Challenge,
    Done,
    Event,
    Failure,
    Hello,
    Message,
    Port,
    ReservePort,
    Welcome,
    decode,
    encode,
    proof,
)

from ...support.keeper_server import SECRET, run_in

pytestmark = pytest.mark.skipif(os.name != "posix", reason="AF_UNIX")

EVENT = Event(kind="offline", lease_id="lease_1", shared=True, message="cut off")

Script = Callable[[socket.socket], None]


def welcome(end: socket.socket, secret: str = SECRET) -> None:
    """Be the keeper until both have proved that they know the secret."""
    end.sendall(encode(Challenge(nonce="n")))
    hello = decode(end.makefile("rb").readline())
    assert isinstance(hello, Hello)
    assert hello.proof == proof(SECRET, "process", "n")
    end.sendall(encode(Welcome(proof=proof(secret, "keeper", hello.nonce), pid=1)))


def answering(*answers: Message | bytes) -> Script:
    """Answer one request with these lines, and leave the connection open until it is closed."""

    def script(end: socket.socket) -> None:
        welcome(end)
        end.makefile("rb").readline()
        for answer in answers:
            end.sendall(answer if isinstance(answer, bytes) else encode(answer))
        end.recv(1)

    return script


@pytest.fixture
def connect(tmp_path: Path) -> Iterator[Callable[..., KeeperConnection]]:
    """Connect to a keeper that follows a script."""
    with ExitStack() as stack:

        def connect(script: Script, **options: Any) -> KeeperConnection:
            run = run_in(tmp_path / "u" / "r", start_timeout_s=1)
            listener = stack.enter_context(socket.socket(socket.AF_UNIX))
            listener.bind(run.directory.socket)
            listener.listen()
            content = {"address": ["unix", run.directory.socket], "secret": SECRET}
            Path(run.directory.run_file).write_text(json.dumps(content))

            def serve() -> None:
                end, _ = listener.accept()
                with end:
                    end.settimeout(20)
                    script(end)

            thread = threading.Thread(target=serve)
            thread.start()
            stack.callback(thread.join, 20)
            connection = KeeperConnection(run, 1.0, **options)
            stack.callback(connection.close)
            return connection

        yield connect


def test_an_answer_may_come_after_events(connect: Any) -> None:
    connection = connect(answering(EVENT, EVENT, Port(port=8000)))

    assert connection.ask(ReservePort(), Port, 20.0) == Port(port=8000)
    assert connection.events == [EVENT, EVENT]
    assert connection.is_free


def test_a_line_may_come_in_pieces(connect: Any) -> None:
    line = encode(Port(port=8000))

    connection = connect(answering(*(bytes([byte]) for byte in line)))

    assert connection.ask(ReservePort(), Port, 20.0) == Port(port=8000)


def test_a_refusal_leaves_the_connection_free(connect: Any) -> None:
    connection = connect(answering(Failure(code="NONE", message="no port", hint="Close one")))

    with pytest.raises(KeeperError, match=r"^no port\. Close one$") as caught:
        connection.ask(ReservePort(), Port, 20.0)

    assert caught.value.code == "NONE"
    assert connection.is_free


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (Done(), "expected Port, got Done"),
        (b"{}\n", "cannot be read"),
        (b'{"type": "Port", "port": "1"}\n', "field 'port' must be int, got str"),
        (b"x" * (MAX_LINE_BYTES + 100_000), "closed the connection"),
    ],
    ids=["another type", "no message", "a wrong field", "too long"],
)
def test_an_answer_that_breaks_the_protocol(connect: Any, answer: Any, message: str) -> None:
    def script(end: socket.socket) -> None:
        with suppress(OSError):  # the other end has enough
            answering(answer)(end)

    connection = connect(script)

    with pytest.raises(ConnectionError, match=message):
        connection.ask(ReservePort(), Port, 20.0)
    connection.close()


def test_an_answer_that_does_not_come_in_time(
    connect: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection_module, "SLACK_S", 0.0)
    connection = connect(answering())

    with pytest.raises(TimeoutError):
        connection.ask(ReservePort(), Port, 0.05)

    assert not connection.is_free


def test_events_are_taken_without_waiting(connect: Any) -> None:
    connection = connect(answering(EVENT))
    assert connection.take_events() == []
    connection.send(ReservePort())

    connection.read_events(20.0)

    assert connection.take_events() == [EVENT]
    assert connection.take_events() == []


def test_a_keeper_that_closes(connect: Any) -> None:
    connection = connect(welcome)

    with pytest.raises(ConnectionError, match="closed the connection"):
        connection.read_events(20.0)


def test_who_does_not_know_the_secret_is_not_asked(connect: Any) -> None:
    with pytest.raises(ConnectionError, match="does not know this run's secret"):
        connect(lambda end: welcome(end, "another"))


def test_shutting_down_ends_the_wait_of_another_thread(connect: Any) -> None:
    connection = connect(answering())
    connection.send(ReservePort())
    timer = threading.Timer(0.05, connection.shut_down)
    timer.start()

    with pytest.raises(ConnectionError, match="closed the connection"):
        connection.read_events(20.0)
    timer.join()


class Listener:
    """Notes what it is told of waits; the first time, it lets the keeper go on."""

    def __init__(self) -> None:
        self.told: list[float | str] = []
        self.go_on = threading.Event()

    def waiting(self, waited_s: float) -> None:
        self.told.append(waited_s)
        self.go_on.set()

    def over(self) -> None:
        self.told.append("over")


def test_a_wait_for_an_answer_is_told_until_it_comes(connect: Any) -> None:
    listener = Listener()

    def script(end: socket.socket) -> None:
        welcome(end)
        lines = end.makefile("rb")
        lines.readline()
        end.sendall(encode(Port(port=1)))
        lines.readline()
        listener.go_on.wait(20)
        end.sendall(encode(Port(port=2)))
        end.recv(1)

    connection = connect(script, listener=listener)
    assert connection.ask(ReservePort(), Port, 20.0) == Port(port=1)
    assert listener.told == []
    assert connection.ask(ReservePort(), Port, 20.0) == Port(port=2)
    assert listener.told[0] == 0.5
    assert listener.told[-1] == "over"


def test_a_wait_that_is_told_has_its_deadline(
    connect: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection_module, "SLACK_S", 0.25)
    listener = Listener()
    connection = connect(answering(), listener=listener)

    with pytest.raises(TimeoutError):
        connection.ask(ReservePort(), Port, 0.5)
    assert listener.told == [0.5, "over"]


def test_a_keeper_that_starts_slowly_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = run_in(tmp_path / "u" / "r")
    listener = Listener()
    pauses: list[int] = []

    def pause(timeout_ms: int) -> None:
        pauses.append(timeout_ms)
        if len(pauses) == 1_200:
            run.directory.mark_failed()

    monkeypatch.setattr(connection_module, "pause", pause)
    with pytest.raises(KeeperError):
        KeeperConnection(run, 30.0, listener=listener)
    assert listener.told == [0.5, 1.0, "over"]


def test_an_answer_that_is_polled_for_some_time(connect: Any) -> None:
    connection = connect(answering(EVENT, Port(port=8000)))
    assert connection.poll(Port, 0.001) is None
    connection.send(ReservePort())

    assert connection.poll(Port, 20.0) == Port(port=8000)
    assert connection.events == [EVENT]

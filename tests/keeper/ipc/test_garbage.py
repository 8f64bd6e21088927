"""Generated lines on the control connection, before and after the proof: each is answered or cut
off, and the keeper goes on."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pytest_synth_tunnels.keeper.ipc.messages import (
    Challenge,
    Failure,
    LeaseInfo,
    Message,
    OpenLease,
    Port,
    ReservePort,
    Welcome,
    decode,
    encode,
    proof,
)

from ...support.examples import examples

pytestmark = pytest.mark.skipif(os.name != "posix", reason="AF_UNIX")


def case_count(in_ci: int) -> settings:
    """Return the settings of a test with so many cases in CI."""
    health_checks = list(HealthCheck)
    return settings(
        deadline=None, max_examples=examples(in_ci), suppress_health_check=health_checks
    )


LEASE = "the lease's id"
"""Stands for the real one."""

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.text(st.characters(), max_size=9)
    | st.sampled_from(["é", "\ud800", "", "gw1", "/", "x" * 9000, 10**30, 2**31, 0, -1])
    | st.sampled_from(["http://127.0.0.1:1", "http://[", "http://127.0.0.1:0", "http://a b"])
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)
DEEP = {b"(lists in lists)": b"[" * 100_000, b"(objects in objects)": b'{"a":' * 50_000}
"""What stands for lines that would be too long to show."""
RAW = (
    st.binary(max_size=40).map(lambda data: data.replace(b"\n", b""))
    | st.sampled_from([*DEEP, b"{}", b"[]", b"1e999", b"NaN", b"null", b"9" * 5000])
    | st.sampled_from([b'{"type":"Done","type":{}}', b'{"type":"ReservePort","":0}'])
)


@st.composite
def lines(draw: st.DrawFn) -> bytes:
    """A message with whatever in its fields, more of them or fewer; or no message."""
    if draw(st.integers(0, 5)) == 0:
        return draw(RAW)
    name = draw(st.sampled_from(sorted(Message.types)))
    # Only who waits for a lease that is there would have to be waited for.
    values = VALUES if name == "WaitReady" else VALUES | st.just(LEASE)
    body = {field: draw(values) for field in sorted(Message.types[name].fields)}
    if "provider" in body:
        body["provider"] = draw(st.sampled_from(["synthtunnel", "synthtunnel", None, "x", 1]))
    if body and draw(st.integers(0, 9)) == 0:
        del body[draw(st.sampled_from(sorted(body)))]
    if draw(st.integers(0, 9)) == 0:
        body[draw(st.text(max_size=5))] = draw(SCALARS)
    return json.dumps({"type": name, **body}).encode()


@pytest.fixture
def holder() -> Iterator[int]:
    """The id of a process that is not the run's owner."""
    command = [sys.executable, "-S", "-c", "input()"]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as process:
        yield process.pid
        process.kill()


class Line:
    """A connection to the keeper, as far as its challenge."""

    def __init__(self, run_dir: Path) -> None:
        self.secret = json.loads((run_dir / "keeper.json").read_text())["secret"]
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(20)
        self.socket.connect(str(run_dir / "s"))
        self.file = self.socket.makefile("rb")
        challenge = decode(self.file.readline())
        assert isinstance(challenge, Challenge)
        self.proof = proof(self.secret, "process", challenge.nonce)

    def answers(self, data: bytes) -> list[Message]:
        """Send something, and nothing after it; return all that comes back."""
        try:
            self.socket.sendall(data)
            self.socket.shutdown(socket.SHUT_WR)
            return [decode(line) for line in self.file]
        except OSError:
            return []  # cut off in the middle of it
        finally:
            self.file.close()
            self.socket.close()


def check(keeper: Any, seen: list[str]) -> None:
    """See that it has not failed inside since it was looked at last, and still works."""
    log = keeper.log().removeprefix("".join(seen))
    seen.append(log)
    assert "Traceback" not in log, log
    process = keeper.connect()
    assert isinstance(process.ask(ReservePort()), Port)
    keeper.connections.remove(process)
    process.close()


def test_whatever_a_stranger_says_it_is_cut_off(start_keeper: Any, run_dir: Path) -> None:
    keeper = start_keeper()
    keeper.connect()
    seen: list[str] = []

    @case_count(100)
    @given(lines=st.lists(lines(), min_size=1, max_size=3), ends=st.booleans())
    def say(lines: list[bytes], ends: bool) -> None:
        data = b"\n".join(DEEP.get(line, line) for line in lines) + b"\n" * ends
        assert Line(run_dir).answers(data) == []
        check(keeper, seen)

    say()


def test_whatever_somebody_says_of_itself_it_is_known_or_cut_off(
    start_keeper: Any, run_dir: Path, holder: int
) -> None:
    keeper = start_keeper()
    keeper.connect()
    seen: list[str] = []

    @case_count(150)
    @given(
        nonce=st.just("n") | VALUES,
        pid=st.just("its pid") | VALUES,
        address=st.just("gw1") | VALUES,
        proved=st.sampled_from([True, True, False]) | VALUES,
    )
    def greet(nonce: Any, pid: Any, address: Any, proved: Any) -> None:
        line = Line(run_dir)
        hello = {
            "type": "Hello",
            "proof": line.proof if proved is True else proved,
            "nonce": nonce,
            "pid": holder if pid == "its pid" else pid,
            "address": address,
        }
        answers = line.answers(json.dumps(hello).encode() + b"\n")
        if answers:
            (welcome,) = answers
            assert isinstance(welcome, Welcome)
            assert proved is True
        check(keeper, seen)

    greet()


def test_whatever_a_process_asks_is_answered(start_keeper: Any, run_dir: Path, holder: int) -> None:
    keeper = start_keeper()
    lease = keeper.connect().ask(OpenLease())
    assert isinstance(lease, LeaseInfo)
    process = keeper.connect("gw1", holder)
    seen: list[str] = []

    @case_count(200)
    @given(lines())
    def ask(line: bytes) -> None:
        line = DEEP.get(line, line.replace(LEASE.encode(), lease.lease_id.encode()))
        process.socket.sendall(line + b"\n")
        answer = process.answer()
        assert answer is not None, "it was cut off"
        assert not (isinstance(answer, Failure) and answer.code == "TUNNEL_INTERNAL"), (
            answer.message
        )
        assert encode(answer)
        check(keeper, seen)

    ask()
    assert isinstance(process.ask(OpenLease()), LeaseInfo)

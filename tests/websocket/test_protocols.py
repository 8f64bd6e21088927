"""AppProtocol and CallerProtocol: the closes that they take, without sockets."""

import pytest
from websockets.frames import Close, Frame, Opcode
from websockets.protocol import Protocol, State

from pytest_synth_tunnels.websocket.protocols import CallerProtocol
from pytest_synth_tunnels.websocket.upgrade import app_protocol


def frame_of(opcode: Opcode, data: bytes, *, fin: bool = True, masked: bool) -> bytes:
    return Frame(opcode, data, fin).serialize(mask=masked)


@pytest.fixture(params=["app", "caller"])
def ends(request: pytest.FixtureRequest) -> tuple[Protocol, bool]:
    """An end of the tunnel, and whether its peer masks what it sends."""
    if request.param == "app":
        return app_protocol([], 1000), False
    return CallerProtocol(1000), True


def test_a_close_in_the_middle_of_a_message_is_the_peers_own(ends: tuple[Protocol, bool]) -> None:
    protocol, masked = ends
    close = Close(1000, "bye").serialize()
    protocol.receive_data(frame_of(Opcode.TEXT, b"hi", fin=False, masked=masked))
    protocol.receive_data(frame_of(Opcode.CLOSE, close, masked=masked))
    assert protocol.events_received() == [
        Frame(Opcode.TEXT, b"hi", fin=False),
        Frame(Opcode.CLOSE, close),
    ]
    assert protocol.close_rcvd == protocol.close_sent == Close(1000, "bye")
    assert protocol.state is State.CLOSING
    assert protocol.parser_exc is None


def test_a_close_that_answers_one_is_no_failure_either(ends: tuple[Protocol, bool]) -> None:
    protocol, masked = ends
    protocol.receive_data(frame_of(Opcode.BINARY, b"hi", fin=False, masked=masked))
    protocol.send_close(1001, "")
    protocol.receive_data(frame_of(Opcode.CLOSE, b"\x03\xe9", masked=masked))
    assert (protocol.close_rcvd, protocol.parser_exc) == (Close(1001, ""), None)


@pytest.mark.parametrize(
    ("opcode", "data"),
    [(Opcode.TEXT, b"new"), (Opcode.CLOSE, b"\x03"), (Opcode.CLOSE, b"\x03\xee")],
)
def test_what_is_no_close_fails_as_ever(
    ends: tuple[Protocol, bool], opcode: Opcode, data: bytes
) -> None:
    protocol, masked = ends
    protocol.receive_data(frame_of(Opcode.TEXT, b"hi", fin=False, masked=masked))
    protocol.receive_data(frame_of(opcode, data, masked=masked))
    assert protocol.close_sent is not None
    assert protocol.close_sent.code == 1002

"""Endpoint: when what a WebSocket has to say is written. No sockets."""

from typing import Any, cast

import pytest
from websockets.protocol import SERVER, Protocol

from pytest_synth_tunnels.wire.endpoint import Endpoint


class Loop:
    """Keeps what is to be called at the end of the tick."""

    def __init__(self) -> None:
        self.due: list[Any] = []

    def call_soon(self, callback: Any) -> None:
        self.due.append(callback)

    def tick(self) -> None:
        due, self.due = self.due, []
        for callback in due:
            callback()


class Transport:
    """Keeps what is written."""

    def __init__(self) -> None:
        self.written: list[bytes] = []
        self.closed = self.aborted = False
        self.protocol: Any = None
        self.reading = False

    def write(self, data: bytes) -> None:
        self.written.append(data)

    def close(self) -> None:
        self.closed = True

    def abort(self) -> None:
        self.aborted = True

    def is_closing(self) -> bool:
        return self.closed

    def set_protocol(self, protocol: Any) -> None:
        self.protocol = protocol

    def resume_reading(self) -> None:
        self.reading = True


class Known(Endpoint):
    """Keeps what it was given."""

    def __init__(self, protocol: Protocol, loop: Any) -> None:
        super().__init__(protocol, loop)
        self.received = b""

    def data_received(self, data: bytes) -> None:
        self.received += data


@pytest.fixture
def loop() -> Loop:
    return Loop()


@pytest.fixture
def transport() -> Transport:
    return Transport()


@pytest.fixture
def protocol() -> Protocol:
    return Protocol(SERVER)


@pytest.fixture
def endpoint(loop: Loop, protocol: Protocol) -> Known:
    return Known(protocol, loop)


def adopted(endpoint: Known, transport: Transport, received: bytes = b"") -> None:
    endpoint.adopt(cast("Any", transport), received)


def test_it_takes_over_a_connection_with_what_has_come(
    endpoint: Known, transport: Transport
) -> None:
    adopted(endpoint, transport, b"abc")
    assert transport.protocol is endpoint
    assert transport.reading
    assert endpoint.received == b"abc"


def test_what_is_said_in_one_tick_is_one_write(
    endpoint: Known, transport: Transport, protocol: Protocol, loop: Loop
) -> None:
    adopted(endpoint, transport)
    for text in (b"a", b"b", b"c"):
        protocol.send_text(text)
        endpoint._flush_soon()
    assert transport.written == []
    loop.tick()
    assert transport.written == [b"\x81\x01a\x81\x01b\x81\x01c"]
    loop.tick()
    assert len(transport.written) == 1


def test_the_end_of_the_stream_closes_behind_what_was_said(
    endpoint: Known, transport: Transport, protocol: Protocol, loop: Loop
) -> None:
    adopted(endpoint, transport)
    protocol.send_text(b"a")
    protocol.fail(1011)
    endpoint._flush_soon()
    loop.tick()
    assert transport.written == [b"\x81\x01a\x88\x02\x03\xf3"]
    assert transport.closed
    protocol.writes.append(b"late")
    endpoint._flush_soon()
    loop.tick()
    assert len(transport.written) == 1


def test_without_a_connection_nothing_is_written(
    endpoint: Known, protocol: Protocol, loop: Loop
) -> None:
    protocol.send_text(b"a")
    endpoint._flush_soon()
    loop.tick()
    endpoint.abort()
    assert protocol.data_to_send() == []


def test_abort(endpoint: Known, transport: Transport) -> None:
    adopted(endpoint, transport)
    endpoint.abort()
    assert transport.aborted

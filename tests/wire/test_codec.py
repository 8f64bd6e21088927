"""Frames whose payload is long enough to bypass the JSON codec."""

import base64
import json
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_synth_tunnels.wire import codec
from pytest_synth_tunnels.wire.codec import decode, encode
from pytest_synth_tunnels.wire.frames import (
    Frame,
    FrameError,
    ReqBody,
    ReqEnd,
    ReqHeaders,
    RespBody,
    RespError,
    RespHeaders,
    WsFrame,
    WsOpen,
)

LONG = bytes(range(256)) * 16
TEXT = base64.b64encode(LONG).decode()
payloads = st.integers(0, 12_000).flatmap(
    lambda size: st.binary(min_size=16, max_size=16).map(lambda some: (some * 750)[:size])
)


def body(**fields: Any) -> bytes:
    return json.dumps({"type": "RESP_BODY", "rid": "r", "chunk_b64": TEXT, **fields}).encode()


@settings(deadline=None)
@given(payload=payloads, rid=st.text(max_size=40), lease=st.text(max_size=40))
def test_a_payload_of_any_length_is_written_as_the_json_codec_does(
    payload: bytes, rid: str, lease: str
) -> None:
    frames: list[Frame] = [
        ReqHeaders(lease, "r1", "GET", "/", "", [], 1, payload, end=True),
        RespHeaders(rid, 200, [], lease, payload, end=True),
        ReqBody(rid, payload, lease),
        RespBody(rid, payload, lease_id=lease),
        WsFrame(rid, payload, "text", False, lease),
    ]
    for frame in frames:
        text = encode(frame)
        assert text == msgspec.json.encode(frame)
        assert decode(text) == frame


def test_a_string_that_looks_like_the_payload_is_none() -> None:
    rid = '","chunk_b64":"'
    frame = RespBody(rid, LONG, lease_id=rid)

    assert decode(encode(frame)) == frame


@pytest.mark.parametrize("separators", [(",", ":"), (", ", ": "), (" , ", " : ")])
@pytest.mark.parametrize("indent", [None, 2])
def test_a_published_agents_way_to_write_json(separators, indent) -> None:
    fields = {"chunk_b64": TEXT, "type": "RESP_BODY", "rid": "r", "eof": False}
    text = json.dumps(fields, separators=separators, indent=indent).encode()

    assert decode(text) == RespBody("r", LONG)


def test_long_payloads_do_not_go_through_the_json_codec(monkeypatch) -> None:
    seen = []

    class Decoder:
        def decode(self, data: bytes) -> Any:
            seen.append(len(data))
            return codec.msgspec.json.decode(data, type=Frame)

    monkeypatch.setattr(codec, "_decoder", Decoder())
    assert decode(body()) == RespBody("r", LONG)
    assert seen == [len(body()) - len(TEXT) + 16]


def test_what_a_json_writer_escapes() -> None:
    assert decode(body().replace(b"/", rb"\/")) == RespBody("r", LONG)
    assert decode(body().replace(b"AAEC", rb"AA\u0045C")) == RespBody("r", LONG)


def test_a_payload_elsewhere_in_the_frame_is_not_its_own() -> None:
    nested = {"type": "RESP_END", "rid": "r", "more": {"chunk_b64": TEXT}}

    assert decode(json.dumps(nested).encode()) is not None
    assert decode(body(data_b64=TEXT)) == RespBody("r", LONG)
    other = {"more": {"data_b64": TEXT}, **json.loads(body())}
    assert decode(json.dumps(other).encode()) == RespBody("r", LONG)
    message = RespError("r", "code", TEXT)
    assert decode(encode(message)) == message


KEYS = ("body_b64", "chunk_b64", "data_b64", r"chunk\u005fb64")


@settings(deadline=None)
@given(
    kind=st.sampled_from(["RESP_BODY", "REQ_BODY", "REQ_HEADERS", "WS_FRAME", "REQ_END"]),
    fields=st.lists(st.tuples(st.sampled_from(KEYS), st.binary(max_size=4)), max_size=4),
    nested=st.booleans(),
    factor=st.sampled_from([1, 1000]),
)
def test_a_frame_means_the_same_at_any_length(
    kind: str, fields: list[tuple[str, bytes]], nested: bool, factor: int
) -> None:
    head = f'"type":"{kind}","rid":"r","lease_id":"l","method":"GET","path":"/","query":"",'
    pairs = [f'"{key}":"{base64.b64encode(data * factor).decode()}"' for key, data in fields]
    more = ",".join(pairs)
    if nested:
        more = f'"more":{{{more}}}'
    text = f'{{{head}"headers":[],"deadline_ms":1,"opcode":"text","fin":true,{more}}}'.encode()
    text = text.replace(b",}", b"}")
    try:
        expected = msgspec.json.decode(text, type=Frame)
    except msgspec.DecodeError:
        with pytest.raises(FrameError):
            decode(text)
    else:
        assert decode(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        body(chunk_b64=TEXT[:-1]),
        body(chunk_b64=TEXT + "="),
        body(chunk_b64=TEXT + "\n"),
        body(chunk_b64=TEXT[:2000] + " " + TEXT[2000:]),
        body(chunk_b64=TEXT[:2000] + "-_-_" + TEXT[2000:]),
        body(chunk_b64=TEXT[:2000] + "\0\0\0\0" + TEXT[2000:]),
        body(chunk_b64=TEXT[:2000] + "\u00e9" + TEXT[2000:]),
        body(chunk_b64=[TEXT]),
        body(eof=5),
        body(lease_id=None),
    ],
    ids=range(10),
)
def test_a_malformed_payload_fails_its_own_request(text: bytes) -> None:
    with pytest.raises(FrameError, match="RESP_BODY") as caught:
        decode(text)

    assert caught.value.rid == "r"


def test_the_headers_of_a_long_frame_are_checked_too() -> None:
    text = encode(RespHeaders("r", 200, [("a", "b\r\nc: d")], "l", LONG, end=True))
    with pytest.raises(FrameError, match="cannot travel in HTTP"):
        decode(text)


@pytest.mark.parametrize("rid", ["r\r\nX-Admin: 1", "\u0100", "r\0"])
def test_a_rid_becomes_a_header_of_the_app_s(rid: str) -> None:
    for frame in (
        ReqHeaders("l", rid, "GET", "/", "", [], 1),
        WsOpen(rid, "/", "", [], 1, "l"),
    ):
        with pytest.raises(FrameError, match="rid cannot travel in a header"):
            decode(encode(frame))


def test_a_long_frame_that_breaks_off() -> None:
    for end in (-1, -20, -2000):
        with pytest.raises(FrameError):
            decode(body()[:end])


def test_a_long_frame_of_an_unknown_type() -> None:
    assert decode(body(type="NEW")) is None
    assert decode(body(type="REQ_END")) == ReqEnd("r")

import json
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_synth_tunnels.wire import frames
from pytest_synth_tunnels.wire.codec import decode, encode
from pytest_synth_tunnels.wire.frames import (
    AgentCapabilities,
    Attach,
    AttachAck,
    AttachLease,
    CallerEof,
    Cancel,
    ConnClosed,
    Frame,
    FrameError,
    LocalTarget,
    RelayCapabilities,
    ReqBody,
    ReqEnd,
    ReqHeaders,
    RespBody,
    RespEnd,
    RespError,
    RespHeaders,
    RespInterim,
    Window,
    WsClose,
    WsFrame,
    WsOpen,
    WsOpenAck,
    WsOpenReject,
    in_pieces,
)

HEADERS = [("Accept", "*/*"), ("Accept", "a, b"), ("X-Latin", "caf\u00e9"), ("Empty", "")]

EXAMPLES: list[Frame] = [
    Attach(
        [AttachLease("lease", LocalTarget("127.0.0.1", 80))],
        "agent",
        AgentCapabilities(streaming=True, max_inflight=7, flow_control=True),
    ),
    AttachAck("agent", ["lease"], RelayCapabilities(flow_control=True)),
    ReqHeaders("lease", "r1", "GET", "/a%20b", "c=%26", HEADERS, 120_000),
    ReqHeaders("lease", "r1", "POST", "/", "", HEADERS, 1000, b"body", end=True),
    ReqBody("r1", bytes(range(256)), "lease"),
    ReqEnd("r1", "lease"),
    ReqHeaders("lease", "r1", "GET", "/", "", HEADERS, 1000, end=True, conn="c1", close=True),
    Cancel("r1", "lease"),
    CallerEof("r1", "lease"),
    ConnClosed("c1"),
    RespHeaders("r1", 207, HEADERS, "lease"),
    RespHeaders("r1", 200, HEADERS, "lease", b"body", end=True),
    RespHeaders("r1", 200, HEADERS, "lease", close=True),
    RespBody("r1", b"", lease_id="lease"),
    RespEnd("r1", "lease"),
    RespError("r1", "LOCAL_CONNECT_FAILED", "no", "lease"),
    WsOpen("r1", "/", "", HEADERS, 1000, "lease"),
    WsOpenAck("r1", [("sec-websocket-protocol", "chat")], "lease"),
    WsOpenReject("r1", 426, [("Upgrade", "websocket")], b"no", "lease"),
    WsFrame("r1", b"text", "text", False, "lease"),
    WsClose("r1", 1001, "bye", "lease"),
    Window("r1", 5, "lease"),
    ReqHeaders("l", "r1", "PUT", "/", "", HEADERS, 1000, chunked=True, negotiated=HEADERS),
    ReqHeaders("l", "r1", "GET", "/\xe9", "\xff", HEADERS, 1000),
    ReqEnd("r1", "lease", HEADERS),
    RespInterim("r1", 103, HEADERS, "lease"),
    RespHeaders("r1", 299, HEADERS, "lease", reason="Quota Low"),
    RespHeaders("r1", 299, HEADERS, "lease", reason=""),
    RespEnd("r1", "lease", HEADERS),
    WsOpenReject("r1", 403, HEADERS, b"no", "lease", "Not you"),
]


def test_there_is_an_example_of_every_frame() -> None:
    kinds = {name for name in frames.__all__ if isinstance(getattr(frames, name), type)}
    parts = {"AgentCapabilities", "AttachLease", "FrameEnvelope", "FrameError", "LocalTarget"}
    parts.add("RelayCapabilities")

    assert {type(example).__name__ for example in EXAMPLES} == kinds - parts


@pytest.mark.parametrize("frame", EXAMPLES, ids=lambda frame: type(frame).__name__)
def test_a_frame_survives_the_way(frame: Frame) -> None:
    text = encode(frame)

    assert decode(text) == frame
    assert decode(text.decode()) == frame


def test_names_on_the_wire_are_the_published_ones() -> None:
    assert [json.loads(encode(frame))["type"] for frame in EXAMPLES] == [
        *("ATTACH", "ATTACH_ACK"),
        *("REQ_HEADERS", "REQ_HEADERS", "REQ_BODY", "REQ_END"),
        *("REQ_HEADERS", "CANCEL", "CALLER_EOF", "CONN_CLOSED"),
        *("RESP_HEADERS", "RESP_HEADERS", "RESP_HEADERS", "RESP_BODY", "RESP_END", "RESP_ERROR"),
        *("WS_OPEN", "WS_OPEN_ACK", "WS_OPEN_REJECT", "WS_FRAME", "WS_CLOSE"),
        "WINDOW",
        "REQ_HEADERS",
        *("REQ_HEADERS", "REQ_END", "RESP_INTERIM", "RESP_HEADERS", "RESP_HEADERS", "RESP_END"),
        "WS_OPEN_REJECT",
    ]
    assert json.loads(encode(ReqBody("r1", b"\x00\xff", "l"))) == {
        "type": "REQ_BODY",
        "rid": "r1",
        "chunk_b64": "AP8=",
        "lease_id": "l",
    }
    assert json.loads(encode(RespHeaders("r", 200, [], "l"))) == {
        "type": "RESP_HEADERS",
        "rid": "r",
        "status": 200,
        "headers": [],
        "lease_id": "l",
    }
    assert json.loads(encode(RespHeaders("r", 200, [], "l", b"x", end=True))) == {
        "type": "RESP_HEADERS",
        "rid": "r",
        "status": 200,
        "headers": [],
        "lease_id": "l",
        "body_b64": "eA==",
        "end": True,
    }
    assert json.loads(encode(WsOpenReject("r", 404, [], b"x")))["body_b64"] == "eA=="
    assert json.loads(encode(WsFrame("r", b"x")))["data_b64"] == "eA=="
    assert json.loads(encode(WsClose("r", lease_id="l"))) == {
        "type": "WS_CLOSE",
        "rid": "r",
        "lease_id": "l",
    }


def test_what_a_published_agent_leaves_out_or_adds() -> None:
    assert decode('{"type": "ATTACH", "leases": [{"lease_id": "l"}], "new": 1}') == Attach(
        [AttachLease("l")]
    )
    assert decode('{"type": "RESP_END", "rid": "r"}') == RespEnd("r")
    assert decode('{"rid": "r", "type": "WS_FRAME", "data_b64": ""}') == WsFrame("r", b"")
    assert decode('{"type": "WS_CLOSE", "rid": "r", "code": 1005}') == WsClose("r", 1005)


@pytest.mark.parametrize("text", ['{"type": "NEW", "rid": "r"}', "{}", '{"type": ""}'])
def test_an_unknown_type_is_no_frame(text: str) -> None:
    assert decode(text) is None


@pytest.mark.parametrize(
    "text",
    [
        "",
        "null",
        "[]",
        "1",
        '"REQ_END"',
        "{",
        '{"type": 5}',
        "[" * 10_000,
        '{"a":' * 5_000,
        "\ud800",
    ],
    ids=range(10),
)
def test_what_is_no_json_object_concerns_no_request(text: str) -> None:
    with pytest.raises(FrameError) as caught:
        decode(text.encode("utf-8", "surrogatepass"))

    assert caught.value.rid is None


RESPONSE = {"type": "RESP_HEADERS", "rid": "r", "status": 200, "headers": []}
REQUEST = {
    "type": "REQ_HEADERS",
    "lease_id": "l",
    "rid": "r",
    "method": "GET",
    "path": "/",
    "query": "",
    "headers": [],
    "deadline_ms": 1,
}


@pytest.mark.parametrize(
    "wrong",
    [
        RESPONSE | {"status": "200"},
        RESPONSE | {"status": 100},
        RESPONSE | {"status": 1000},
        RESPONSE | {"status": None},
        RESPONSE | {"headers": [["a"]]},
        RESPONSE | {"headers": [["a", 1]]},
        RESPONSE | {"headers": {"a": "b"}},
        RESPONSE | {"headers": [["a b", "c"]]},
        RESPONSE | {"headers": [["", "c"]]},
        RESPONSE | {"headers": [["a", "b\r\nc: d"]]},
        RESPONSE | {"headers": [["a", "b\nc"]]},
        RESPONSE | {"headers": [["a", "\0"]]},
        RESPONSE | {"headers": [["a", "\u0100"]]},
        RESPONSE | {"headers": [["a\r\n", "b"]]},
        REQUEST | {"path": "relative"},
        REQUEST | {"path": "/a b"},
        REQUEST | {"path": "/\u0100"},
        REQUEST | {"path": "/", "query": "a\r\nb"},
        REQUEST | {"path": "/#a"},
        REQUEST | {"method": "GET /x HTTP/1.1\r\n"},
        REQUEST | {"method": ""},
        REQUEST | {"deadline_ms": 1.5},
        REQUEST | {"negotiated": [["TE", "a\r\nb"]]},
        REQUEST | {"negotiated": [["T E", "trailers"]]},
        RESPONSE | {"reason": "OK\r\nX: 1"},
        RESPONSE | {"reason": "\u0100"},
        RESPONSE | {"type": "WS_OPEN_REJECT", "reason": "\n"},
        RESPONSE | {"type": "RESP_INTERIM"},
        RESPONSE | {"type": "RESP_INTERIM", "status": 101},
        RESPONSE | {"type": "RESP_INTERIM", "status": 103, "headers": [["a", "\n"]]},
        {"type": "RESP_END", "rid": "r", "trailers": [["a", "b\r\n\r\n"]]},
        {"type": "REQ_END", "rid": "r", "trailers": [["a:", "b"]]},
        {"type": "REQ_BODY", "rid": "r"},
        {"type": "REQ_BODY", "rid": "r", "chunk_b64": "%%%"},
        {"type": "REQ_BODY", "rid": "r", "chunk_b64": None},
        {"type": "WS_FRAME", "rid": "r", "data_b64": "", "opcode": "ping"},
        {"type": "WINDOW", "rid": "r", "credit_bytes": "many"},
    ],
    ids=str,
)
def test_a_malformed_frame_fails_its_own_request(wrong: dict[str, object]) -> None:
    with pytest.raises(FrameError) as caught:
        decode(json.dumps(wrong))

    assert caught.value.rid == "r"


@settings(deadline=None)
@given(st.binary() | st.text() | st.text('[]{},:"typeridREQ_BODY0123'))
def test_nothing_else_comes_of_garbage(data: bytes | str) -> None:
    with suppress(FrameError):
        decode(data)


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=5,
)


@settings(deadline=None)
@given(st.sampled_from(EXAMPLES), st.data())
def test_nothing_else_comes_of_a_frame_with_one_field_changed(
    frame: Frame, data: st.DataObject
) -> None:
    fields = json.loads(encode(frame))
    fields[data.draw(st.sampled_from(sorted(fields)))] = data.draw(_json)
    try:
        found = decode(json.dumps(fields))
    except FrameError:
        return
    if found is not None:
        assert decode(encode(found)) == found


@pytest.mark.parametrize(
    ("frame", "pieces"),
    [
        (
            ReqHeaders("l", "r", "POST", "/", "", HEADERS, 1, b"body", end=True),
            [
                ReqHeaders("l", "r", "POST", "/", "", HEADERS, 1),
                ReqBody("r", b"body", "l"),
                ReqEnd("r", "l"),
            ],
        ),
        (
            ReqHeaders("l", "r", "GET", "/", "", [], 1, end=True),
            [ReqHeaders("l", "r", "GET", "/", "", [], 1), ReqEnd("r", "l")],
        ),
        (
            RespHeaders("r", 200, HEADERS, "l", b"body", end=True),
            [
                RespHeaders("r", 200, HEADERS, "l"),
                RespBody("r", b"body", lease_id="l"),
                RespEnd("r", "l"),
            ],
        ),
        (
            RespHeaders("r", 204, [], "l", end=True),
            [RespHeaders("r", 204, [], "l"), RespEnd("r", "l")],
        ),
        (RespHeaders("r", 200, HEADERS, "l"), [RespHeaders("r", 200, HEADERS, "l")]),
        (RespBody("r", b"body"), [RespBody("r", b"body")]),
    ],
)
def test_a_whole_message_comes_apart(frame: Frame, pieces: list[Frame]) -> None:
    before = encode(frame)
    assert in_pieces(frame) == pieces
    assert encode(frame) == before

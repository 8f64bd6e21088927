"""What a test reads of a request, and what it can make of it."""

import asyncio
import gzip
import shlex
import subprocess
import zlib
from datetime import UTC, datetime

import pytest

from pytest_synth_tunnels.traffic.exchange import (
    Fields,
    HeaderFields,
    InboundRequest,
    TruncatedBodyError,
)

from ..support.recorded import START_S, message, recorded, response


class TestFields:
    def test_first_value_of_a_repeated_name(self) -> None:
        fields = Fields([("a", "1"), ("b", "2"), ("a", "3")])
        assert fields["a"] == "1"
        assert fields.get_all("a") == ["1", "3"]
        assert dict(fields) == {"a": "1", "b": "2"}
        assert len(fields) == 2
        assert fields.pairs == [("a", "1"), ("b", "2"), ("a", "3")]

    def test_names_of_headers_have_no_case_and_values_join(self) -> None:
        headers = HeaderFields([("X-Tag", "1"), ("x-tag", "2")])
        assert headers["X-TAG"] == "1, 2"
        assert headers.get_all("x-Tag") == ["1", "2"]
        assert dict(headers) == {"x-tag": "1, 2"}
        assert "X-tag" in headers

    def test_what_is_missing(self) -> None:
        fields = Fields([("a", "1")])
        assert "A" not in fields
        assert 1 not in fields
        assert fields.get("b") is None
        assert fields.get_all("b") == []
        with pytest.raises(KeyError):
            fields["b"]


class TestRequest:
    def test_all_that_it_says(self) -> None:
        request = recorded(
            "POST",
            "/caf%C3%A9",
            query="a=1&a=2&empty=&u=%20x",
            headers=[("X-A", "1"), ("Content-Type", "text/plain; charset=latin-1")],
            body="é".encode("latin-1"),
            answer=response(201, "made"),
        )
        assert request.path == "/caf%C3%A9"
        assert request.query.get_all("a") == ["1", "2"]
        assert request.query["empty"] == ""
        assert request.query["u"] == " x"
        assert request.headers["x-a"] == "1"
        assert request.text == "é"
        assert request.received_at == datetime.fromtimestamp(START_S + 1, UTC)
        assert request.client == "127.0.0.1"
        assert request.response.status == 201
        assert request.response.text == "made"
        assert request.response.duration_s == 0.005
        assert repr(request) == "<InboundRequest POST /caf%C3%A9 201 by the app>"

    def test_data_there_and_back(self) -> None:
        request = recorded("POST", "/x", json_body={"a": 1}, answer=response(500, b"\xff"))
        assert InboundRequest.from_data(request.to_data()).to_data() == request.to_data()

    @pytest.mark.parametrize("data", [{}, {"headers": 1}, {**recorded().to_data(), "body": "é"}])
    def test_no_recorded_request(self, data: dict[str, object]) -> None:
        with pytest.raises(ValueError, match="not a recorded request"):
            InboundRequest.from_data(data)

    def test_no_answer_yet(self) -> None:
        request = recorded(answered_by=None, over=False)
        assert not request.answered
        assert not request.app_has_answered
        with pytest.raises(RuntimeError, match='until="answered"'):
            _ = request.response

    def test_an_open_websocket_is_answered(self) -> None:
        request = recorded(websocket=True, over=False, answer=response(101, complete=False))
        assert request.app_has_answered

    def test_a_stream_is_answered_at_its_end(self) -> None:
        request = recorded(over=False, answer=response(200, "data: 1", complete=False))
        assert request.answered
        assert not request.app_has_answered

    def test_messages_of_a_websocket(self) -> None:
        request = recorded(websocket=True, messages=[message("hi"), message(b"\xff", "app")])
        assert [(m.sender, m.data) for m in request.messages] == [
            ("caller", "hi"),
            ("app", b"\xff"),
        ]
        assert recorded(messages=[message('{"a": 1}')]).messages[0].json() == {"a": 1}

    def test_a_long_message_is_shown_in_part(self) -> None:
        short, long = recorded(messages=[message("hi"), message(b"\xff" * 1_000, "app")]).messages
        assert repr(short) == "<WebSocketMessage from caller: 'hi'>"
        assert repr(long).endswith(r"\xff'… (1000 bytes)>")
        assert len(repr(long)) < 400


class TestBody:
    def test_json(self) -> None:
        assert recorded(json_body={"a": [1]}).json() == {"a": [1]}
        with pytest.raises(ValueError, match="Expecting value"):
            recorded(body="no json").json()

    def test_a_part_is_no_json_and_no_form(self) -> None:
        request = recorded(
            body="a=1",
            headers=[("Content-Type", "application/x-www-form-urlencoded")],
            truncated=True,
        )
        for read in (request.json, request.form):
            with pytest.raises(TruncatedBodyError) as caught:
                read()
            assert "3 of 1003 bytes" in str(caught.value)
            assert "synth_tunnels_traffic_body_bytes" in str(caught.value)
        assert request.text == "a=1"

    @pytest.mark.parametrize(
        ("coding", "compress"), [("gzip", gzip.compress), ("deflate", zlib.compress)]
    )
    def test_compressed(self, coding: str, compress: "type") -> None:
        request = recorded(body=compress(b'{"a": 1}'), headers=[("Content-Encoding", coding)])
        assert request.json() == {"a": 1}
        assert request.text == '{"a": 1}'

    def test_compressed_with_what_is_not_known(self) -> None:
        request = recorded(body=b"\x00\x01", headers=[("Content-Encoding", "br")])
        with pytest.raises(ValueError, match="br"):
            request.json()
        assert request.text

    def test_not_compressed_as_it_says(self) -> None:
        request = recorded(body=b"plain", headers=[("Content-Encoding", "gzip")])
        with pytest.raises(ValueError, match="not gzip"):
            request.json()
        assert request.text == "plain"

    @pytest.mark.parametrize("charset", ["none-such", "punycode", "unicode_escape", "IDNA", "zlib"])
    def test_what_is_no_charset(self, charset: str) -> None:
        request = recorded(
            body="é-\\d", headers=[("Content-Type", f"text/plain; charset={charset}")]
        )
        assert request.text == "é-\\d"


class TestForm:
    def test_urlencoded(self) -> None:
        request = recorded(
            body="a=1&b=x+y&a=2",
            headers=[("content-type", "application/x-www-form-urlencoded; charset=utf-8")],
        )
        assert request.form().get_all("a") == ["1", "2"]
        assert request.form()["b"] == "x y"

    def test_multipart(self) -> None:
        body = (
            '--X\r\nContent-Disposition: form-data; name="who"\r\n\r\nJosé\r\n'
            '--X\r\nContent-Disposition: form-data; name="file"; filename="a.bin"\r\n'
            "Content-Type: application/octet-stream\r\n\r\n\x00\x01\r\n--X--\r\n"
        )
        request = recorded(body=body, headers=[("Content-Type", "multipart/form-data; boundary=X")])
        assert dict(request.form()) == {"who": "José", "file": "a.bin"}

    def test_no_form(self) -> None:
        with pytest.raises(ValueError, match="application/json"):
            recorded(json_body={}).form()
        with pytest.raises(ValueError, match="not the multipart form"):
            recorded(headers=[("Content-Type", "multipart/form-data")]).form()


class TestCurl:
    def test_a_request_with_a_body(self) -> None:
        request = recorded(
            "POST",
            "/it's",
            query="a=[1]",
            headers=[
                ("Host", "x"),
                ("X-Forwarded-For", "1"),
                ("X-SynthTunnel-Lease-Id", "1"),
                ("X-A", "b"),
                ("X-Empty", ""),
            ],
            body='{"a": "it\'s"}',
        )
        assert shlex.split(request.curl()) == [
            *("curl", "--globoff", "-X", "POST", "-H", "X-A: b", "-H", "X-Empty;"),
            *("--data-raw", '{"a": "it\'s"}', "http://127.0.0.1:8000/it's?a=[1]"),
        ]

    def test_bytes_come_through_a_shell(self) -> None:
        data = bytes(range(256))
        before, _, after = recorded("PUT", body=data).curl().partition(" | curl")
        assert "--data-binary @-" in after
        assert subprocess.run(["sh", "-c", before], capture_output=True).stdout == data

    def test_a_part_says_so(self) -> None:
        assert recorded(body="abc", truncated=True).curl().endswith("# 3 of 1003 bytes")


class AgainAs:
    """Sends nothing, and returns what it was given."""

    def __init__(self, request: InboundRequest) -> None:
        self.request = request
        self.asked: list[int] = []

    def replay(self, sequence: int) -> InboundRequest:
        self.asked.append(sequence)
        return self.request

    async def replay_async(self, sequence: int) -> InboundRequest:
        return self.replay(sequence)


class TestReplay:
    def test_it_is_sent_again(self) -> None:
        replayer = AgainAs(recorded(sequence=7))
        request = InboundRequest.from_data(recorded(sequence=3).to_data(), replayer)
        assert request.replay() is replayer.request
        assert asyncio.run(request.replay_async()) is replayer.request
        assert replayer.asked == [3, 3]

    def test_there_is_no_run(self) -> None:
        with pytest.raises(RuntimeError, match="without a run"):
            recorded().replay()

    def test_a_websocket(self) -> None:
        request = InboundRequest.from_data(recorded(websocket=True).to_data(), AgainAs(recorded()))
        with pytest.raises(RuntimeError, match="a WebSocket cannot"):
            request.replay()

    def test_a_part(self) -> None:
        data = recorded(body="abc", truncated=True).to_data()
        with pytest.raises(TruncatedBodyError):
            InboundRequest.from_data(data, AgainAs(recorded())).replay()

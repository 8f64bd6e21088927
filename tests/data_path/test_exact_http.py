"""What a caller and an app say to each other arrives as it would without a tunnel: each case runs
against the app itself, over a link in memory and over a WebSocket."""

import asyncio
import json
import os
import socket
from contextlib import suppress

import pytest

from pytest_synth_tunnels.agent.agent import Agent
from pytest_synth_tunnels.wire.frames import Attach

from ..support.echo_links import WAYS, App, Talk, run, way_to

every_way = pytest.mark.parametrize("kind", WAYS)
tunnelled = pytest.mark.parametrize("kind", WAYS[1:])

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


class PlainAgent(Agent):
    """An agent that announces nothing, like the published ones."""

    def attach_frame(self) -> Attach:
        frame = super().attach_frame()
        return Attach(frame.leases, agent_id=frame.agent_id)


def saying(*answers: bytes, heads: list[bytes] | None = None) -> App:
    """An app that answers each request without a body with the next of these."""

    async def app(talk: Talk) -> None:
        for answer in answers:
            head = await talk.head()
            if heads is not None:
                heads.append(head)
            talk.say(answer)
        await talk.rest()

    return app


def status_line(head: bytes) -> bytes:
    return head.split(b"\r\n")[0]


# Reason phrases.


@every_way
@pytest.mark.parametrize(
    "line",
    [
        b"HTTP/1.1 401 Token timed out",
        b"HTTP/1.1 299 Quota Low",
        b"HTTP/1.1 200 ",
        b"HTTP/1.1 404 Not found",
        b"HTTP/1.1 500 \xc3\xa9t\xe9\tx",
        b"HTTP/1.1 200 OK",
        b"HTTP/1.1 413 Content Too Large",
    ],
)
def test_the_reason_phrase_is_the_apps_own(kind: str, line: bytes) -> None:
    async def test() -> None:
        async with way_to(kind, saying(line + b"\r\nContent-Length: 0\r\n\r\n")) as way:
            talk = await way.ask("GET")
            assert status_line(await talk.head()) == line

    run(test)


# Interim responses.


@every_way
def test_interim_responses_are_passed_on(kind: str) -> None:
    hints = b"HTTP/1.1 103 Early Hints\r\nLink: </style.css>; rel=preload\r\n\r\n"
    busy = b"HTTP/1.1 102 Processing\r\n\r\n"

    async def app(talk: Talk) -> None:
        await talk.head()
        talk.say(hints)
        await talk.exactly(1)  # the caller has it before the answer is there
        talk.say(busy + hints + OK)
        await talk.rest()

    async def test() -> None:
        async with way_to(kind, app) as way:
            talk = await way.ask("POST", "Content-Length: 1")
            assert await talk.head() == hints
            talk.say(b"x")
            assert [await talk.head(), await talk.head()] == [busy, hints]
            assert status_line(await talk.head()) == b"HTTP/1.1 200 OK"
            assert await talk.exactly(2) == b"ok"

    run(test)


@tunnelled
def test_a_caller_of_http_1_0_gets_no_interim_response(kind: str) -> None:
    async def test() -> None:
        async with way_to(kind, saying(b"HTTP/1.1 103 Early Hints\r\n\r\n" + OK)) as way:
            talk = await way.connect()
            talk.say(way.request("GET", version="1.0"))
            assert status_line(await talk.head()) == b"HTTP/1.1 200 OK"

    run(test)


@tunnelled
def test_interim_responses_without_end_are_bounded(kind: str) -> None:
    async def test() -> None:
        hint = b"HTTP/1.1 103 Early Hints\r\nX-N: 1\r\n\r\n"
        async with way_to(kind, saying(hint * 1_000 + OK)) as way:
            talk = await way.ask("GET")
            got = await talk.until(b"\r\n\r\nok")
            assert got.count(hint) == 64

    run(test)


# Expect.

EXPECT = ("Content-Length: 4", "Expect: 100-continue")


@every_way
def test_the_app_lets_the_body_come(kind: str) -> None:
    seen: list[bytes] = []

    async def app(talk: Talk) -> None:
        seen.append(await talk.head())
        talk.say(b"HTTP/1.1 100 Continue\r\n\r\n")
        seen.append(await talk.exactly(4))
        talk.say(OK)
        await talk.rest()

    async def test() -> None:
        async with way_to(kind, app) as way:
            talk = await way.ask("PUT", *EXPECT)
            assert await talk.head() == b"HTTP/1.1 100 Continue\r\n\r\n"
            talk.say(b"body")
            assert status_line(await talk.head()) == b"HTTP/1.1 200 OK"
            assert b"\r\nExpect: 100-continue\r\n" in seen[0]
            assert seen[1] == b"body"

    run(test)


@every_way
@pytest.mark.parametrize("status", [b"401 Who are you", b"413 Too much", b"417 No"])
def test_an_app_that_refuses_from_the_head_has_the_first_word(kind: str, status: bytes) -> None:
    async def test() -> None:
        answer = b"HTTP/1.1 %b\r\nContent-Length: 2\r\n\r\nno" % status
        async with way_to(kind, saying(answer)) as way:
            talk = await way.ask("PUT", *EXPECT)
            assert status_line(await talk.head()) == b"HTTP/1.1 " + status
            assert await talk.exactly(2) == b"no"

    run(test)


@tunnelled
def test_an_agent_that_cannot_ask_the_app_has_the_relay_decide(kind: str) -> None:
    seen: list[bytes] = []

    async def app(talk: Talk) -> None:
        seen.append(await talk.head())
        await talk.exactly(4)
        talk.say(OK)
        await talk.rest()

    async def test() -> None:
        async with way_to(kind, app, agent=PlainAgent) as way:
            talk = await way.ask("PUT", *EXPECT)
            assert await talk.head() == b"HTTP/1.1 100 Continue\r\n\r\n"
            talk.say(b"body")
            assert status_line(await talk.head()) == b"HTTP/1.1 200 OK"
            assert b"expect" not in seen[0].lower()

    run(test)


# Answers that are complete before the request is.

EARLY = [
    pytest.param(b"HTTP/1.1 202 Accepted\r\nContent-Length: 2\r\n\r\nok", id="length"),
    pytest.param(
        b"HTTP/1.1 202 Accepted\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        id="chunked",
    ),
    pytest.param(b"HTTP/1.1 204 No Content\r\n\r\n", id="bodiless"),
]


@every_way
@pytest.mark.parametrize("answer", EARLY)
@pytest.mark.parametrize("framing", ["Content-Length: 300006", "Transfer-Encoding: chunked"])
def test_an_app_that_answers_first_reads_the_upload_all_the_same(
    kind: str, answer: bytes, framing: str
) -> None:
    read: asyncio.Queue[bytes] = asyncio.Queue()
    chunked = framing.startswith("T")
    first, rest = b"before", bytes(300_000)
    if chunked:
        first, rest = b"6\r\nbefore\r\n", b"493e0\r\n" + rest + b"\r\n0\r\n\r\n"

    async def app(talk: Talk) -> None:
        await talk.head()
        assert await talk.exactly(len(first)) == first
        talk.say(answer)
        if chunked:  # pieces of any size arrive as chunks of any size
            read.put_nowait(await talk.until(b"0\r\n\r\n"))
        else:
            read.put_nowait(await talk.exactly(len(rest)))
        await talk.head()
        talk.say(OK)
        await talk.rest()

    async def test() -> None:
        async with way_to(kind, app) as way:
            talk = await way.ask("POST", framing, body=first)
            assert await talk.exactly(len(answer)) == answer
            talk.say(rest)
            assert (await read.get()).count(0) == 300_000
            # The connection goes on: to the same connection of the app.
            talk.say(way.request("GET"))
            assert status_line(await talk.head()) == b"HTTP/1.1 200 OK"

    run(test)


@every_way
def test_an_app_that_answers_and_leaves_ends_the_upload(kind: str) -> None:
    async def app(talk: Talk) -> None:
        await talk.head()
        await talk.exactly(1)
        talk.say(b"HTTP/1.1 413 Too much\r\nContent-Length: 2\r\n\r\nno")

    async def test() -> None:
        async with way_to(kind, app) as way:
            talk = await way.ask("POST", "Content-Length: 1000000", body=b"x")
            assert status_line(await talk.head()) == b"HTTP/1.1 413 Too much"
            assert await talk.rest() == b"no"

    run(test)


@tunnelled
@pytest.mark.parametrize("size_bytes", [2, 200_000])
def test_a_caller_hears_with_an_early_answer_that_the_app_has_left(
    kind: str, size_bytes: int
) -> None:
    """Otherwise its next request would meet a connection that is about to end."""

    async def app(talk: Talk) -> None:
        await talk.head()
        await talk.exactly(1)
        head = b"HTTP/1.1 413 Too much\r\nContent-Length: %d\r\n\r\n" % size_bytes
        if size_bytes == 2:
            # At once, so that the agent meets the end together with the answer in any event loop.
            with socket.socket(fileno=os.dup(talk.writer.get_extra_info("socket").fileno())) as raw:
                raw.sendall(head + bytes(size_bytes))
                raw.shutdown(socket.SHUT_WR)
        else:
            talk.say(head + bytes(size_bytes))

    async def test() -> None:
        async with way_to(kind, app) as way:
            talk = await way.ask("POST", "Content-Length: 3", body=b"x")
            head = await talk.head()
            assert (b"\r\nConnection: close\r\n" in head) == (size_bytes == 2)
            assert await talk.exactly(size_bytes) == bytes(size_bytes)
            # The caller has sent all that it announced by the time that it looks at the answer.
            talk.say(b"yz" + way.request("GET"))
            assert await talk.rest() == b""

    run(test)


@tunnelled
def test_a_caller_that_leaves_behind_an_early_answer_leaves_the_app(kind: str) -> None:
    left: asyncio.Queue[None] = asyncio.Queue()

    async def app(talk: Talk) -> None:
        await talk.head()
        talk.say(OK)
        with suppress(ConnectionError):
            await talk.rest()
        left.put_nowait(None)

    async def test() -> None:
        async with way_to(kind, app) as way:
            talk = await way.ask("POST", "Content-Length: 9", body=b"x")
            assert status_line(await talk.head()) == b"HTTP/1.1 200 OK"
            talk.writer.transport.abort()
            await left.get()

    run(test)


@tunnelled
def test_an_agent_that_drops_uploads_ends_the_callers_connection(kind: str) -> None:
    async def app(talk: Talk) -> None:
        await talk.head()
        talk.say(OK)
        await talk.rest()

    async def test() -> None:
        async with way_to(kind, app, agent=PlainAgent) as way:
            talk = await way.ask("POST", "Content-Length: 9", body=b"x")
            assert b"\r\nConnection: close\r\n" in await talk.head()
            assert await talk.rest() == b"ok"

    run(test)


# Framing and trailers.


@every_way
def test_trailers_are_passed_on_to_an_app(kind: str) -> None:
    seen: list[bytes] = []

    async def app(talk: Talk) -> None:
        seen.append(await talk.head())
        seen.append(await talk.until(b"0\r\n"))
        seen.append(await talk.until(b"\r\n\r\n"))
        talk.say(OK)
        await talk.rest()

    async def test() -> None:
        async with way_to(kind, app) as way:
            talk = await way.ask("POST", "Transfer-Encoding: chunked", "Trailer: X-Sum")
            talk.say(b"3\r\nabc\r\n")
            talk.say(b"0\r\nX-Sum: 1\r\n\r\n")
            assert status_line(await talk.head()) == b"HTTP/1.1 200 OK"
            assert b"\r\nTrailer: X-Sum\r\n" in seen[0]
            assert seen[1:] == [b"3\r\nabc\r\n0\r\n", b"X-Sum: 1\r\n\r\n"]

    run(test)


CHUNKED = (
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n"
    b"2\r\nok\r\n0\r\nX-Sum: 1\r\n\r\n"
)


@every_way
def test_trailers_are_passed_on_to_a_caller_that_takes_them(kind: str) -> None:
    heads: list[bytes] = []

    async def test() -> None:
        async with way_to(kind, saying(CHUNKED, OK, heads=heads)) as way:
            talk = await way.ask("GET", "TE: trailers", "Connection: TE")
            assert b"\r\nTrailer: X-Sum\r\n" in await talk.head()
            assert await talk.until(b"0\r\n") == b"2\r\nok\r\n0\r\n"
            assert await talk.until(b"\r\n\r\n") == b"X-Sum: 1\r\n\r\n"
            assert b"\r\nTE: trailers\r\n" in heads[0]
            assert b"\r\nConnection: TE\r\n" in heads[0]
            talk.say(way.request("GET"))
            assert status_line(await talk.head()) == b"HTTP/1.1 200 OK"

    run(test)


@tunnelled
def test_trailers_do_not_reach_a_caller_that_does_not_take_them(kind: str) -> None:
    async def test() -> None:
        async with way_to(kind, saying(CHUNKED)) as way:
            talk = await way.ask("GET")
            assert b"trailer" not in (await talk.head()).lower()
            assert await talk.until(b"0\r\n") == b"2\r\nok\r\n0\r\n"
            assert await talk.exactly(2) == b"\r\n"

    run(test)


@tunnelled
@pytest.mark.parametrize(
    "trailer",
    [
        "Host: other",
        "Authorization: no",
        "X-SynthTunnel-Worker-Token: no",
    ],
)
def test_a_trailer_that_would_be_taken_for_more_is_left_out(kind: str, trailer: str) -> None:
    seen: list[bytes] = []

    async def app(talk: Talk) -> None:
        await talk.head()
        seen.append(await talk.until(b"\r\n\r\n"))
        talk.say(OK)
        await talk.rest()

    async def test() -> None:
        async with way_to(kind, app) as way:
            talk = await way.ask("POST", "Transfer-Encoding: chunked")
            talk.say(b"1\r\nx\r\n0\r\n" + trailer.encode() + b"\r\nX-Sum: 1\r\n\r\n")
            assert status_line(await talk.head()) == b"HTTP/1.1 200 OK"
            assert seen == [b"1\r\nx\r\n0\r\nX-Sum: 1\r\n\r\n"]

    run(test)


@every_way
@pytest.mark.parametrize(
    ("lines", "body", "framing"),
    [
        ([], b"", []),
        (["Content-Length: 0"], b"", [b"content-length: 0"]),
        (["Content-Length: 2"], b"hi", [b"content-length: 2"]),
        (
            ["Transfer-Encoding: chunked"],
            b"2\r\nhi\r\n0\r\n\r\n",
            [b"transfer-encoding: chunked"],
        ),
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_body_is_framed_as_the_caller_framed_it(
    kind: str, method: str, lines: list[str], body: bytes, framing: list[bytes]
) -> None:
    seen: list[bytes] = []

    async def app(talk: Talk) -> None:
        seen.append(await talk.head())
        seen.append(await talk.exactly(len(body)))
        talk.say(OK)
        await talk.rest()

    async def test() -> None:
        async with way_to(kind, app) as way:
            talk = await way.ask(method, *lines, body=body)
            assert status_line(await talk.head()) == b"HTTP/1.1 200 OK"
            found = [
                line
                for line in seen[0].lower().split(b"\r\n")
                if line.startswith((b"content-length", b"transfer-encoding"))
            ]
            assert found == framing
            assert seen[1] == body

    run(test)


# What RFC 9112 lets a recipient accept from an app.


@every_way
@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(
            b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nok", id="equal"
        ),
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length: 2, 2\r\n\r\nok", id="list"),
        pytest.param(b"HTTP/1.1 200 OK\nContent-Length: 2\n\nok", id="LF"),
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length: 2\n\r\nok", id="mixed"),
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length : 2\r\n\r\nok", id="space"),
        pytest.param(
            b"HTTP/1.1 200 OK\r\nX-A: a\r\n b\r\nContent-Length: 2\r\n\r\nok", id="folded"
        ),
    ],
)
@pytest.mark.parametrize("size", [1, 7, 1000])
def test_an_app_that_is_not_quite_strict_is_understood(kind: str, answer: bytes, size: int) -> None:
    async def app(talk: Talk) -> None:
        for _ in range(2):
            await talk.head()
            for at in range(0, len(answer), size):
                talk.say(answer[at : at + size])
                await asyncio.sleep(0)
        await talk.rest()

    async def test() -> None:
        async with way_to(kind, app) as way:
            talk = await way.ask("GET")
            for _ in range(2 if way.tunnelled else 1):
                head = await talk.until(b"ok")
                assert head.startswith(b"HTTP/1.1 200 OK")
                if way.tunnelled:
                    assert head.endswith(b"\r\nContent-Length: 2\r\n\r\nok")
                    talk.say(way.request("GET"))

    run(test)


@tunnelled
def test_chunks_win_over_a_length_and_the_connection_to_the_app_ends(kind: str) -> None:
    ended: asyncio.Queue[bytes] = asyncio.Queue()

    async def app(talk: Talk) -> None:
        await talk.head()
        talk.say(
            b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\nTransfer-Encoding: chunked\r\n\r\n"
            b"2\r\nok\r\n0\r\n\r\n"
        )
        ended.put_nowait(await talk.rest())

    async def test() -> None:
        async with way_to(kind, app) as way:
            talk = await way.ask("GET")
            head = await talk.head()
            assert b"\r\nTransfer-Encoding: chunked\r\n" in head
            assert b"content-length" not in head.lower()
            assert await talk.until(b"0\r\n\r\n") == b"2\r\nok\r\n0\r\n\r\n"
            assert await ended.get() == b""

    run(test)


@tunnelled
@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2, 3\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nContent-Length: two\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nno colon\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nX y: 1\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nX: a\rb\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\n: a\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked, gzip\r\n\r\nok",
        b"HTTP/1.1 OK\r\n\r\n",
    ],
)
def test_an_answer_that_cannot_be_understood_is_502(kind: str, answer: bytes) -> None:
    async def test() -> None:
        async with way_to(kind, saying(answer)) as way:
            talk = await way.ask("GET")
            assert status_line(await talk.head()) == b"HTTP/1.1 502 Bad Gateway"

    run(test)


# Request targets and headers.


@every_way
@pytest.mark.parametrize(
    "target",
    ["/?", "/a?", "/a%2Fb%zz/../c;d=1,e", "/\xc3\xbc?\xff=%20+", "//a//?a?b=/?", "/|\\^`{}<>\"'"],
)
def test_the_target_arrives_byte_for_byte(kind: str, target: str) -> None:
    heads: list[bytes] = []

    async def test() -> None:
        async with way_to(kind, saying(OK, heads=heads)) as way:
            talk = await way.ask("GET", target=target)
            assert status_line(await talk.head()) == b"HTTP/1.1 200 OK"
            assert status_line(heads[0]) == f"GET {target} HTTP/1.1".encode("latin-1")

    run(test)


@tunnelled
def test_an_agent_that_wants_ascii_gets_the_same_target_in_ascii(kind: str) -> None:
    heads: list[bytes] = []

    async def test() -> None:
        async with way_to(kind, saying(OK, heads=heads), agent=PlainAgent) as way:
            talk = await way.ask("GET", target="/\xc3\xbc?\xff")
            assert status_line(await talk.head()) == b"HTTP/1.1 200 OK"
            assert status_line(heads[0]) == b"GET /%C3%BC?%FF HTTP/1.1"

    run(test)


@every_way
def test_headers_arrive_byte_for_byte_and_in_order(kind: str) -> None:
    heads: list[bytes] = []
    lines = [
        "X-B: 1",
        "x-a: \xc3\xbc\xff\x80",
        "X-B: 2",
        'COOKIE: a=1; b="2"',
        "X!#$%&'*+-.^_`|~: ,;=",
        "Empty:",
        "X-Tab: a\tb",
    ]

    async def test() -> None:
        async with way_to(kind, saying(OK, heads=heads)) as way:
            talk = await way.ask("GET", *lines)
            assert status_line(await talk.head()) == b"HTTP/1.1 200 OK"
            found = [line.rstrip() for line in heads[0].decode("latin-1").split("\r\n")]
            assert [line for line in found if line in lines] == lines

    run(test)


@tunnelled
def test_an_apps_headers_arrive_byte_for_byte_and_in_order(kind: str) -> None:
    lines = [b"X-B: 1", b"x-a: \xc3\xbc\xff\x80", b"X-B: 2", b"ETAG: a", b"VARY: *"]
    answer = b"HTTP/1.1 200 OK\r\n" + b"\r\n".join(lines) + b"\r\nContent-Length: 0\r\n\r\n"

    async def test() -> None:
        async with way_to(kind, saying(answer)) as way:
            talk = await way.ask("GET")
            assert await talk.head() == answer

    run(test)


# Upgrades.


@tunnelled
@pytest.mark.parametrize("protocol", ["spdy/3", "SSH", "foo, websocket"])
def test_an_upgrade_that_cannot_be_carried_is_501_with_the_reason(kind: str, protocol: str) -> None:
    async def test() -> None:
        async with way_to(kind, saying(OK)) as way:
            talk = await way.ask("GET", f"Upgrade: {protocol}", "Connection: Upgrade")
            assert status_line(await talk.head()) == b"HTTP/1.1 501 Not Implemented"
            error = json.loads(await talk.rest())
            assert error["code"] == "UPGRADE_UNSUPPORTED"
            assert protocol.split(",")[0].lower() in error["message"]

    run(test)


@every_way
@pytest.mark.parametrize("protocol", ["h2c", "h2c, HTTP/2.0", "TLS/1.0"])
def test_an_upgrade_that_the_caller_can_do_without_is_not_agreed_on(
    kind: str, protocol: str
) -> None:
    async def test() -> None:
        async with way_to(kind, saying(OK)) as way:
            lines = (f"Upgrade: {protocol}", "Connection: Upgrade, HTTP2-Settings")
            talk = await way.ask("GET", *lines, "HTTP2-Settings: AAMAAABkAAQAAP__")
            assert status_line(await talk.head()) == b"HTTP/1.1 200 OK"

    run(test)

"""ClientConnection and its ResponseReader, without sockets: the app's bytes in, events out."""

import pytest

from pytest_synth_tunnels.http.client_connection import ClientConnection

from ..support.responses import REQUEST, AppWire, Owner, Response

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"


class App:
    """An app's end of one connection, on which a request was sent."""

    def __init__(self, *, head_only: bool = False, upgrade: bool = False) -> None:
        self.owner = Owner()
        self.connection, self.wire = self.connect()
        self.response = Response()
        if upgrade:
            self.connection.begin_upgrade(self.response, REQUEST)
        else:
            self.connection.begin(
                self.response, REQUEST, head_only=head_only, complete=True, at_once=True
            )
        assert self.wire.take() == REQUEST

    def connect(self) -> tuple[ClientConnection, AppWire]:
        """Return a connection, and its transport."""
        connection, wire = ClientConnection(self.owner), AppWire()
        connection.connection_made(wire)
        return connection, wire

    def say(self, data: bytes) -> Response:
        """Answer with this, as one read, and return what became of it."""
        self.connection.data_received(data)
        return self.response

    def hang_up(self) -> Response:
        """End the connection."""
        self.connection.eof_received()
        self.connection.connection_lost(None)
        return self.response

    @property
    def kept(self) -> bool:
        """Whether the connection went back to its owner."""
        return self.owner.released == [self.connection] and not self.wire.closed


@pytest.fixture
def app() -> App:
    return App()


# Requests.


def begin(connection: ClientConnection, data: bytes, *, at_once: bool = False) -> Response:
    response = Response()
    connection.begin(response, data, head_only=False, complete=True, at_once=at_once)
    return response


def test_requests_of_one_tick_are_written_together_at_its_end(app: App) -> None:
    ends = [app.connect() for _ in range(3)]
    for number, (connection, _) in enumerate(ends):
        begin(connection, b"head %d" % number)
    assert [wire.take() for _, wire in ends] == [b"", b"", b""]
    app.owner.tick()
    assert [wire.take() for _, wire in ends] == [b"head 0", b"head 1", b"head 2"]


def test_a_lone_request_is_written_at_once(app: App) -> None:
    connection, wire = app.connect()
    begin(connection, b"head", at_once=True)
    assert wire.take() == b"head"


def test_a_body_follows_the_head_that_it_belongs_to(app: App) -> None:
    connection, wire = app.connect()
    begin(connection, b"head")
    connection.write(b"body")
    assert wire.take() == b""
    app.owner.tick()
    assert (wire.take(), wire.writes) == (b"headbody", 1)
    connection.write(b"more")
    assert wire.take() == b"more"


def test_an_answer_that_came_before_its_request_ends_the_connection(app: App) -> None:
    connection, wire = app.connect()
    assert not begin(connection, b"head").over
    connection.data_received(ANSWER)
    assert wire.aborted
    assert not app.owner.released
    app.owner.tick()
    assert wire.take() == b""


@pytest.mark.parametrize("how", ["abandoned", "malformed", "lost"])
def test_a_request_that_ends_before_it_was_written_never_is(app: App, how: str) -> None:
    connection, wire = app.connect()
    response = begin(connection, b"head")
    if how == "abandoned":
        connection.abandon()
    elif how == "malformed":
        connection.data_received(b"no HTTP")
    else:
        connection.connection_lost(None)
    app.owner.tick()
    assert wire.take() == b""
    assert (response.error is not None) is (how != "abandoned")
    assert wire.aborted


# Responses.


def test_a_response_and_the_next_one(app: App) -> None:
    response = app.say(b"HTTP/1.1 200 OK\r\nX-A: \xe9\r\nContent-Length: 2\r\n\r\nhi")
    assert (response.status, response.body, response.ended) == (200, b"hi", True)
    assert response.headers == [("X-A", "é"), ("Content-Length", "2")]
    assert app.kept
    assert app.connection.reused
    second = begin(app.connection, REQUEST)
    app.say(ANSWER)
    assert second.ended


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_a_response_in_pieces_of_any_size(app: App, size: int) -> None:
    data = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"
    for at in range(0, len(data), size):
        app.say(data[at : at + size])
    assert (app.response.body, app.response.ended) == (b"abcde", True)
    assert app.kept


def test_a_long_body_ends_where_its_length_says(app: App) -> None:
    app.say(b"HTTP/1.1 200 OK\r\nContent-Length: 200000\r\n\r\n" + bytes(50_000))
    app.say(bytes(100_000))
    assert not app.response.ended
    app.say(bytes(50_000))
    assert (len(app.response.body), app.response.ended) == (200_000, True)
    assert app.kept
    begin(app.connection, REQUEST, at_once=True)
    app.say(ANSWER)
    assert len(app.owner.released) == 2


def test_what_follows_a_response_ends_the_connection(app: App) -> None:
    assert app.say(ANSWER + ANSWER).ended
    assert not app.kept
    assert app.wire.aborted


def test_the_answer_to_a_head_has_no_body() -> None:
    app = App(head_only=True)
    response = app.say(b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n")
    assert response.ended
    assert app.kept
    begin(app.connection, REQUEST, at_once=True)
    app.say(ANSWER)
    assert len(app.owner.released) == 2


def test_a_response_without_a_length_ends_with_its_connection(app: App) -> None:
    app.say(b"HTTP/1.1 200 OK\r\n\r\npart")
    assert not app.response.over
    assert app.hang_up().ended
    assert app.response.body == b"part"
    assert not app.owner.released


@pytest.mark.parametrize(
    "data",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\npart",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\npart\r\n",
    ],
)
def test_a_response_that_is_cut_off_fails(app: App, data: bytes) -> None:
    app.say(data)
    assert str(app.hang_up().error) == (
        "app.test:80: it closed the connection in the middle of its answer"
    )


def test_only_a_reused_connection_may_have_been_closing(app: App) -> None:
    error = app.hang_up().error
    assert error is not None
    assert str(error) == "app.test:80: it closed the connection without an answer"
    assert not error.unanswered
    app = App()
    app.say(ANSWER)
    second = begin(app.connection, REQUEST)
    app.hang_up()
    assert second.error is not None
    assert second.error.unanswered
    assert not second.error.reset
    app = App()
    app.say(ANSWER)
    third = begin(app.connection, REQUEST)
    app.connection.connection_lost(ConnectionResetError())
    assert third.error is not None
    assert third.error.unanswered
    assert third.error.reset


def test_this_side_can_end_behind_the_request(app: App) -> None:
    app.connection.half_close()
    assert app.wire.ended
    app.say(ANSWER)
    assert app.response.ended
    assert app.owner.released == []
    assert app.owner.forgotten == [app.connection]
    app = App()
    app.connection.half_close()
    error = app.hang_up().error
    assert error is not None
    assert error.unanswered


def test_an_app_says_whether_it_closes_behind_its_response(app: App) -> None:
    app.say(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n")
    assert not app.connection.last
    app = App()
    app.say(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\n")
    assert app.connection.last
    app = App()
    app.say(b"HTTP/1.1 200 OK\r\n\r\n")
    assert app.connection.last


def test_hop_by_hop_headers_stay_here(app: App) -> None:
    response = app.say(
        b"HTTP/1.1 200 OK\r\nConnection: keep-alive, x-Private\r\nX-Private: 1\r\n"
        b"Keep-Alive: timeout=5\r\nContent-Length: 0\r\nX-B: 2\r\n\r\n"
    )
    assert response.headers == [("Content-Length", "0"), ("X-B", "2")]
    assert app.kept


@pytest.mark.parametrize("connection", [b"close", b"x, Close"])
def test_an_app_that_says_so_is_not_asked_again(app: App, connection: bytes) -> None:
    response = app.say(
        b"HTTP/1.1 200 OK\r\nConnection: %b\r\nContent-Length: 0\r\n\r\n" % connection
    )
    assert response.ended
    assert not app.kept


def test_interim_responses_come_before_the_final_one(app: App) -> None:
    app.say(b"HTTP/1.1 100 Continue\r\n\r\n")
    app.say(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\r\n")
    app.say(b"Content-Length: 0\r\n\r\n")
    assert app.response.status == 200
    assert app.response.headers == [("Content-Length", "0")]
    assert app.kept


@pytest.mark.parametrize(
    "data", [b"nonsense\r\n\r\n", b"HTTP/1.1 101 x\r\n\r\n", b"HTTP/1.1 099 x\r\n\r\n"]
)
def test_what_is_no_response_fails(app: App, data: bytes) -> None:
    response = app.say(data)
    assert response.error is not None
    assert response.status == 0
    assert app.wire.aborted


def test_a_head_without_an_end_is_bounded(app: App) -> None:
    app.say(b"HTTP/1.1 200 OK\r\n")
    for _ in range(70):
        app.say(b"X: " + b"x" * 4096 + b"\r\n")
        if app.response.over:
            break
    assert "256 KiB" in str(app.response.error)


def test_a_handler_that_breaks_fails_its_own_response(
    app: App, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: object) -> None:
        raise RuntimeError("oops")

    monkeypatch.setattr(app.response, "response_started", fail)
    assert "could not be passed on" in str(app.say(ANSWER).error)
    assert "oops" in caplog.text


def test_a_handler_may_abandon_its_request_while_it_is_told(
    app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app.response, "response_body", lambda data: app.connection.abandon())
    response = app.say(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi")
    assert not response.over
    assert app.wire.aborted
    assert not app.owner.released


# Responses that are complete before the request.


def upload(app: App) -> Response:
    """Begin a request of which more is to come, and answer it."""
    connection, wire = app.connection, app.wire
    app.response = Response()
    connection.begin(app.response, b"head", head_only=False, complete=False, at_once=True)
    wire.take()
    app.say(ANSWER)
    assert app.response.ended
    return app.response


def uploading() -> App:
    app = App()
    app.say(ANSWER)
    app.owner.released.clear()
    upload(app)
    return app


def test_a_request_goes_on_behind_its_response() -> None:
    app = uploading()
    assert app.connection.goes_on
    assert not app.owner.released
    app.connection.write(b"the rest")
    assert app.wire.take() == b"the rest"
    app.connection.request_ended()
    assert app.kept
    assert not app.response.refused


@pytest.mark.parametrize("how", ["ends", "breaks", "speaks"])
def test_an_app_that_reads_no_further_says_so_once(how: str) -> None:
    app = uploading()
    if how == "ends":
        app.connection.eof_received()
    elif how == "speaks":
        app.connection.data_received(b"HTTP/1.1 408 Too late\r\n\r\n")
    else:
        app.connection.connection_lost(ConnectionResetError())
    assert app.response.refused
    assert app.wire.aborted
    app.response.refused = False
    app.connection.connection_lost(None)
    assert not app.response.refused
    assert not app.owner.released


def test_an_upload_that_is_abandoned_ends_the_connection() -> None:
    app = uploading()
    app.connection.abandon()
    assert app.wire.aborted
    app.hang_up()
    assert not app.response.refused


def test_a_connection_that_the_app_will_close_is_not_kept_behind_an_upload() -> None:
    app = App()
    app.connection.begin(app.response, b"head", head_only=False, complete=False, at_once=True)
    app.say(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
    app.connection.request_ended()
    assert not app.owner.released
    assert app.wire.closed
    assert not app.wire.aborted


# What RFC 9112 lets a recipient accept.


@pytest.mark.parametrize("size", [1, 3, 1000])
def test_interim_responses_are_told_once_where_the_head_is_read_again(size: int) -> None:
    app = App()
    data = (
        b"HTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\nHTTP/1.1 102 Processing\n\n"
        b"HTTP/1.1 200 OK\nContent-Length: 0\n\n"
    )
    for at in range(0, len(data), size):
        app.say(data[at : at + size])
    assert app.response.interims == [(103, [("Link", "a")]), (102, [])]
    assert app.response.ended
    assert app.kept


def test_trailers_come_with_the_end(app: App) -> None:
    app.say(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX-A: 1\r\nHost: b\r\n\r\n")
    assert app.response.trailers == [("X-A", "1")]
    second = begin(app.connection, REQUEST, at_once=True)
    app.say(ANSWER)
    assert second.trailers == []


def test_trailers_without_end_are_bounded(app: App) -> None:
    app.say(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n")
    for _ in range(40):
        app.say(b"X: " + b"x" * 2048 + b"\r\n")
        if app.response.over:
            break
    assert "trailers" in str(app.response.error)


@pytest.mark.parametrize(
    ("line", "reason"),
    [(b"200 OK", None), (b"200 Fine", "Fine"), (b"404 ", ""), (b"299 \xe9", "é"), (b"413 x", "x")],
)
def test_a_reason_phrase_that_is_not_the_usual_one_is_told(
    app: App, line: bytes, reason: str | None
) -> None:
    app.say(b"HTTP/1.1 " + line + b"\r\nContent-Length: 0\r\n\r\n")
    assert app.response.reason == reason


# The transport.


def test_flow_control_reaches_the_handler(app: App) -> None:
    app.connection.pause_writing()
    assert not app.response.writing
    app.connection.resume_writing()
    assert app.response.writing


def test_an_app_that_waits_reads_on_with_the_next_request(app: App) -> None:
    app.connection.pause_reading()
    assert not app.wire.reading
    app.say(ANSWER)
    assert app.wire.reading


def test_an_idle_connection_that_ends_is_forgotten(app: App) -> None:
    app.say(ANSWER)
    app.hang_up()
    assert app.owner.forgotten == [app.connection]


def test_an_idle_connection_that_speaks_is_closed(app: App) -> None:
    app.say(ANSWER)
    app.say(b"HTTP/1.1 408 Request Timeout\r\n\r\n")
    assert app.wire.aborted


# Upgrades.

SWITCH = b"HTTP/1.1 101 Switching\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"


@pytest.mark.parametrize("size", [1, 5, 1000])
def test_an_upgrade_hands_the_connection_over(size: int) -> None:
    app = App(upgrade=True)
    interim = b"HTTP/1.1 103 Early Hints\r\n\r\n"
    data = interim + SWITCH + b"Sec-WebSocket-Accept: a\r\n\r\n"
    for at in range(0, len(data), size):
        app.say(data[at : at + size] + (b"\x81\x02hi" if at + size >= len(data) else b""))
    assert app.response.upgraded is not None
    headers, transport, received = app.response.upgraded
    assert headers == [
        ("Upgrade", "websocket"),
        ("Connection", "Upgrade"),
        ("Sec-WebSocket-Accept", "a"),
    ]
    assert transport is app.wire
    assert received == b"\x81\x02hi"
    assert not app.wire.closed
    assert not app.owner.released


def test_a_101_that_names_no_protocol_is_the_handlers_to_judge() -> None:
    response = App(upgrade=True).say(b"HTTP/1.1 101 x\r\n\r\n\x81\x02hi")
    assert response.upgraded is not None
    assert response.upgraded[0] == []


def test_a_refused_upgrade_comes_with_all_its_headers() -> None:
    app = App(upgrade=True)
    response = app.say(
        b"HTTP/1.1 426 Upgrade Required\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Content-Length: 2\r\n\r\nno"
    )
    assert (response.status, response.body, response.ended) == (426, b"no", True)
    assert dict(response.headers)["Upgrade"] == "websocket"
    assert dict(response.headers)["Connection"] == "Upgrade"

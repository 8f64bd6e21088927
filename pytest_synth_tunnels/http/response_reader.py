"""A response as llhttp reads it: what of it concerns the connection, and what its request's owner.

The parser's callbacks tell the owner what comes; nothing is collected here.
"""

import logging
from enum import Enum, auto
from typing import Final

import httptools

from .headers import Headers
from .response import Kind, ResponseHandler, names

__all__ = ["BODY", "ENDED", "HEAD", "IDLE", "ResponseReader"]

_MAX_HEAD_BYTES: Final = 256 * 1024

_log = logging.getLogger(__name__)


class Stage(Enum):
    """How far the response on a connection is."""

    IDLE = auto()
    HEAD = auto()
    INTERIM = auto()  # inside a 1xx response, which is dropped
    BODY = auto()
    DONE = auto()
    SURPLUS = auto()  # behind the response, in what nobody asked for


# Plain globals: looked up once or twice per request.
IDLE, HEAD, INTERIM, BODY, DONE, SURPLUS = Stage
ENDED: Final = (DONE, SURPLUS)


class ResponseReader:
    """The responses that a connection reads, one after the other; the connection extends it.

    The ``on_*`` methods are the parser's callbacks.

    Args:
        name: of the app, for people.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._parser = httptools.HttpResponseParser(self)
        self._responder: ResponseHandler | None = None
        """Whose request it is that is under way."""
        self._stage = IDLE
        self._headers: Headers = []
        self._head_only = False
        """The request is a HEAD: the response ends with its headers, whatever they say."""
        self._framed = False
        """The response says itself where it ends; else the end of the connection does."""
        self._keep = False
        """The connection may carry another request."""
        self._located = False
        self._options: set[str] = set()
        """What the response's ``Connection`` says."""
        self._head_bytes = 0
        self._length = b""
        """``Content-Length`` of the response."""
        self._taken = 0
        """Bytes of the body that the parser has seen."""
        self._left = 0
        """Bytes of a long body that are still to come, which the parser need not see."""

    # --- the parser

    def on_message_begin(self) -> None:
        """Notice a response that nobody asked for."""
        if self._stage is DONE:
            self._stage = SURPLUS
            self._keep = False

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep one header. Trailers come here too, behind the body, and are dropped."""
        if self._stage is not HEAD:
            return
        text, kind = names[name]
        if kind is not None and not self._note(kind, value):
            return
        self._headers.append((text, value.decode("latin-1")))

    def on_headers_complete(self) -> None:
        """Tell the responder, unless it is only an interim response, or one too many."""
        if self._stage is SURPLUS:
            return
        parser = self._parser
        status = parser.get_status_code()
        if status < 200:
            if status < 100 or status == 101:
                self._fail(f"it answered with status {status}")
            self._stage = INTERIM
            return
        if self._head_only:
            self._stage = DONE
            # To the parser a response without a length ends with its connection, but not this one.
            if parser.get_http_version() == "1.0":
                self._keep = "keep-alive" in self._options
            self._keep = self._keep and "close" not in self._options
        else:
            self._stage = BODY
            self._keep = parser.should_keep_alive()
        if self._options:
            self._drop_named()
        if self._responder is not None:
            self._responder.response_started(status, self._headers, self._located)

    def on_body(self, data: bytes) -> None:
        """Pass a piece of the body on."""
        if self._stage is BODY and self._responder is not None:
            self._taken += len(data)
            self._responder.response_body(data)
        else:
            self._keep = False  # a body where none may be

    def on_message_complete(self) -> None:
        """Remember the end until the parser has returned; or expect what follows a 1xx."""
        if self._stage is INTERIM:
            self._expect_head()
        elif self._stage is not SURPLUS:
            self._stage = DONE

    # --- for the connection

    def _parse(self, data: bytes) -> None:
        """Feed the parser."""
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserCallbackError as error:
            _log.error("a response from %s failed", self._name, exc_info=error.__context__)
            self._fail("the response could not be passed on")
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self._keep = False
            if self._stage not in ENDED:
                self._fail(f"its answer is not HTTP/1.1 ({error})")
        if self._stage is BODY:
            if self._length:
                self._left = int(self._length) - self._taken
        elif self._stage is HEAD:
            self._head_bytes += len(data)
            if self._head_bytes > _MAX_HEAD_BYTES:
                self._fail(f"the head of its answer is over {_MAX_HEAD_BYTES >> 10} KiB")

    def _more_body(self, data: bytes) -> None:
        """Pass on the rest of a body whose length is known, without the parser's copy of it."""
        left = self._left - len(data)
        if left <= 0:
            self._stage = DONE
            self._parser = httptools.HttpResponseParser(self)
            if left < 0:
                self._keep = False  # more than was announced
                data = data[:left]
        self._left = max(left, 0)
        if self._responder is not None:
            self._responder.response_body(data)

    def _expect_head(self) -> None:
        """Expect a response, or another one after an interim one."""
        self._stage = HEAD
        self._headers = []
        self._head_bytes = self._taken = self._left = 0
        self._length = b""
        self._keep = True
        self._framed = self._located = False
        if self._options:
            self._options = set()

    def _forget_head(self) -> None:
        """Do not wait for the body that the answer to a HEAD has announced."""
        if self._head_only:
            self._parser = httptools.HttpResponseParser(self)

    def _note(self, kind: Kind, value: bytes) -> bool:
        """Learn from a header what concerns the connection, and tell whether it is passed on."""
        if kind is Kind.LENGTH:
            self._framed = True
            self._length = value
            return True
        if kind is Kind.LOCATION:
            self._located = True
            return True
        if kind is Kind.CODING:
            self._framed = value.lower().rstrip().endswith(b"chunked")
        elif kind is Kind.CONNECTION:
            options = value.decode("latin-1").lower().split(",")
            self._options.update(option.strip() for option in options)
        return False

    def _drop_named(self) -> None:
        """Drop the headers that ``Connection`` makes hop-by-hop."""
        named = self._options - {"keep-alive", "close"}
        if named:
            self._headers = [header for header in self._headers if header[0].lower() not in named]

    def _fail(self, why: str) -> None:
        """Give the connection up, and tell the responder once."""
        raise NotImplementedError

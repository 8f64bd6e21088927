"""An app's answer on its way back to the relay.

The head waits for what comes with it: an answer that comes in one read of the app's connection
is one frame, where the relay takes that.
"""

from math import inf
from typing import TYPE_CHECKING

from ..http.client_connection import ClientConnection
from ..http.errors import error_response
from ..http.refusal_log import log_refusal
from ..wire.frames import (
    MAX_WHOLE_BYTES,
    WINDOW_BYTES,
    Headers,
    ReqHeaders,
    RespBody,
    RespError,
    RespHeaders,
)
from .target import UrlRewriter

if TYPE_CHECKING:
    from .agent import Agent

__all__ = ["AppAnswer", "answer"]


class AppAnswer:
    """The response's side of a request. It holds at most a window of body.

    Args:
        agent: whose link the request came by.
        frame: the request.
        mount: where it goes.
    """

    __slots__ = (
        "_agent",
        "_connection",
        "_credit",
        "_head",
        "_method",
        "_mount",
        "_responded",
        "due_at",
        "lease_id",
        "rid",
    )

    def __init__(self, agent: "Agent", frame: ReqHeaders, mount: UrlRewriter) -> None:
        self.rid = frame.rid
        self.lease_id = frame.lease_id
        self.due_at = inf
        self._agent = agent
        self._method = frame.method
        self._mount = mount
        self._connection: ClientConnection | None = None
        self._responded = False
        """``RESP_HEADERS`` is sent, or waits in ``_head``."""
        self._head: RespHeaders | None = None
        """The beginning of the response, as long as the rest may come in the same read."""
        self._credit: float = WINDOW_BYTES if agent.flow_control else inf
        """What the relay will still take of the response's body, in bytes."""

    # --- from the relay, and from the agent

    def window(self, credit_bytes: int) -> None:
        """Take credit for the response's body."""
        self._credit += credit_bytes
        self.resume()

    def pause(self) -> None:
        """Let the app wait: the link is full."""
        if self._connection is not None:
            self._connection.pause_reading()

    def resume(self) -> None:
        """Go on after :meth:`pause`, if the relay takes more of this response."""
        if self._connection is not None and self._credit > 0 and not self._agent.link_paused:
            self._connection.resume_reading()

    # --- from the app

    def response_started(self, status: int, headers: Headers, located: bool) -> None:
        """Pass the head on, with redirects to the app itself made public."""
        self._responded = True
        self.due_at = inf
        if located:
            headers = self._mount.response_headers(headers)
        head = RespHeaders(self.rid, status, headers, self.lease_id)
        if self._agent.whole_messages:
            self._head = head
        else:
            self._agent.send(head)

    def response_body(self, data: bytes) -> None:
        """Pass a piece of the body on, and stop the app where the relay takes no more."""
        self._credit -= len(data)
        head = self._head
        if head is not None:
            if len(head.body) + len(data) <= MAX_WHOLE_BYTES:
                head.body += data
                return
            self.response_paused()
        self._agent.send(RespBody(self.rid, data, lease_id=self.lease_id))
        if self._credit <= 0 and self._connection is not None:
            self._connection.pause_reading()

    def response_paused(self) -> None:
        """Pass on what waits for more."""
        head, self._head = self._head, None
        if head is not None:
            data, head.body = head.body, b""
            self._agent.send(head)
            if data:
                self._agent.send(RespBody(self.rid, data, lease_id=self.lease_id))

    # --- inside

    def _give_up(self, status: int, code: str, message: str) -> None:
        """Answer instead of the app, or cut its answer off where it has begun."""
        if self._responded:
            error = RespError(self.rid, "LOCAL_BAD_RESPONSE", message, self.lease_id)
            self._agent.send(error)
        else:
            head_only = self._method == "HEAD"
            answer(self._agent, self.rid, self.lease_id, status, code, message, head_only)


def answer(
    agent: "Agent",
    rid: str,
    lease_id: str,
    status: int,
    code: str,
    message: str,
    head_only: bool = False,
) -> None:
    """Answer a request with an error of the agent's own, as a whole response."""
    log_refusal(status, code, rid)
    _, headers, body = error_response(status, code, message, rid)
    agent.respond(rid, lease_id, status, headers, b"" if head_only else body)

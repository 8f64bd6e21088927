"""Sends a recorded request to its app again, through an agent of its own."""

import asyncio
from typing import Final
from urllib.parse import urlsplit
from uuid import uuid4

from ..agent.agent import Agent
from ..agent.url_rewriter import UrlRewriter
from ..http.headers import Headers
from ..traffic.log import Logged
from ..traffic.recorder import RecordedRequest, Recorder
from ..wire.frames import (
    Frame,
    FrameError,
    RelayCapabilities,
    ReqHeaders,
    RespEnd,
    RespError,
    RespHeaders,
)
from ..wire.link import memory_links
from .errors import KeeperRequestError

__all__ = ["ReplayedParts", "replay"]

_TIMEOUT_S: Final = 60.0
_NAMED_BY_THE_TUNNEL: Final = "x-synthtunnel-request-id"


ReplayedParts = tuple[str, str, str, list[tuple[str, str]], bytes]
"""Method, path, query, headers and body of a request, as
:meth:`..traffic.recorder.RecordedRequest.replayable` gives them."""


async def replay(
    recorder: Recorder,
    recorded: RecordedRequest,
    rewriter: UrlRewriter,
    parts: ReplayedParts | None = None,
) -> RecordedRequest:
    """Send a request again and return its record, once the app has answered.

    Args:
        recorder: records it like any other.
        recorded: the request.
        rewriter: where the place of the request leads now.
        parts: what is sent instead of what was recorded, where it is to differ.

    Raises:
        KeeperRequestError: only a part of it was recorded, or there is no answer.
    """
    parts = parts or recorded.replayable()
    if parts is None:
        raise KeeperRequestError(
            "NOT_REPLAYABLE", "this request cannot be sent again: it was not recorded as a whole"
        )
    method, path, query, headers, body = parts
    place = recorded.place
    public_url = rewriter.public_url.removesuffix(f"/~{place.address}")
    if not rewriter.target.strip_prefix:
        path = path.removeprefix(urlsplit(rewriter.public_url).path)
    agent = Agent(recorder=recorder, patience_s=0.0)
    agent.leases.serve(place.lease_id, public_url)
    agent.leases.set_target(
        place.lease_id,
        place.address,
        rewriter.target,
        origin=rewriter.origin,
        loopback_origin=rewriter.loopback_origin,
    )
    rid = f"replay-{uuid4().hex}"
    request = ReqHeaders(
        lease_id=place.lease_id,
        rid=rid,
        method=method,
        path=f"/~{place.address}{path}" if place.address else path,
        query=query,
        headers=_headers(headers, body),
        deadline_ms=int(_TIMEOUT_S * 1000),
        body=body,
        end=True,
    )
    found: list[RecordedRequest] = []

    def note(seen: Logged) -> None:
        if isinstance(seen, RecordedRequest) and rid in seen.head and seen not in found:
            found.append(seen)

    watch, _ = recorder.watch({place: recorder.now()}, note)
    try:
        async with asyncio.timeout(_TIMEOUT_S + 1):
            await _Exchange(agent).run(request)
    except TimeoutError:
        raise KeeperRequestError(
            "NO_ANSWER", f"the app did not answer within {_TIMEOUT_S:g} s"
        ) from None
    finally:
        watch.close()
        await agent.close()
    return found[0]


def _headers(headers: Headers, body: bytes) -> Headers:
    """Return the headers as a relay would send them."""
    kept = [
        (name, value)
        for name, value in headers
        if name.lower() not in (_NAMED_BY_THE_TUNNEL, "content-length", "transfer-encoding")
    ]
    return [*kept, ("Content-Length", str(len(body)))] if body else kept


class _Exchange:
    """The relay's end of a link, for one request (a :class:`~..wire.link.LinkHandler`)."""

    def __init__(self, agent: Agent) -> None:
        self._ended = asyncio.Event()
        self._near, far = memory_links()
        self._near.handler = self
        far.handler = agent
        agent.connected(far, RelayCapabilities())

    async def run(self, request: ReqHeaders) -> None:
        """Send a request, and wait for the end of its answer."""
        self._near.send(request)
        await self._ended.wait()

    def frame_received(self, frame: Frame) -> None:
        if isinstance(frame, (RespEnd, RespError)) or (
            isinstance(frame, RespHeaders) and frame.end
        ):
            self._ended.set()

    def frame_failed(self, error: FrameError) -> None:
        self._ended.set()

    def link_lost(self, reason: str) -> None:
        self._ended.set()

    def pause_writing(self) -> None: ...
    def resume_writing(self) -> None: ...

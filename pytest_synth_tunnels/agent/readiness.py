"""Answers whether a lease's local apps are ready (protocol, section 4)."""

import asyncio
from collections.abc import Iterable
from typing import Final

from ..http.probe import get_status
from ..wire.frames import ReqHeaders
from .target import Target
from .uplink import Uplink

__all__ = ["ReadinessProbes"]

_TIMEOUT_S: Final = 2.0


class ReadinessProbes:
    """Answers requests for :data:`.served_leases.READY_PATH`.

    Args:
        uplink: the link that the requests come by.
    """

    def __init__(self, uplink: Uplink) -> None:
        self._uplink = uplink
        self._answers: set[asyncio.Task[None]] = set()
        """The requests that are not answered yet."""
        self._probes: dict[tuple[Target, ...], asyncio.Task[bool]] = {}
        """The probes in flight. Requests that come meanwhile share their result, so that the apps
        see one probe for many requests."""

    def answer(self, request: ReqHeaders, targets: Iterable[Target]) -> None:
        """Answer a request with 200 as soon as one of the apps answers, or with 503 within two
        seconds."""
        task = asyncio.create_task(self._answer(request, tuple(targets)))
        self._answers.add(task)
        task.add_done_callback(self._answers.discard)

    def cancel(self) -> None:
        """Answer none of the requests that have come so far."""
        for task in (*self._answers, *self._probes.values()):
            task.cancel()

    def _probe(self, targets: tuple[Target, ...]) -> "asyncio.Task[bool]":
        if targets not in self._probes:
            probe = self._probes[targets] = asyncio.create_task(_any_answers(targets))
            probe.add_done_callback(lambda _: self._probes.pop(targets))
        return self._probes[targets]

    async def _answer(self, request: ReqHeaders, targets: tuple[Target, ...]) -> None:
        rid, lease_id = request.rid, request.lease_id
        head_only = request.method == "HEAD"
        if await asyncio.shield(self._probe(targets)):
            body = b"" if head_only else b'{"status":"ready"}'
            headers = [("Content-Type", "application/json"), ("Cache-Control", "no-store")]
            self._uplink.respond(rid, lease_id, 200, headers, body)
            return
        names = ", ".join(target.name for target in targets) or "any target"
        message = f"no app answers on {names} below status 500"
        self._uplink.respond_error(
            rid, lease_id, 503, "target_unreachable", message, head_only=head_only
        )


async def _any_answers(targets: Iterable[Target]) -> bool:
    return any(await asyncio.gather(*map(_answers, targets)))


async def _answers(target: Target) -> bool:
    """Whether an app answers ``GET /`` below 500 (protocol, section 4)."""
    try:
        status = await get_status(
            target.host, target.port, "/", host_header=target.own_host, timeout_s=_TIMEOUT_S
        )
    except (OSError, ValueError):
        return False
    return status < 500

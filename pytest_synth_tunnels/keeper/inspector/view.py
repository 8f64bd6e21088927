"""What the inspector shows of the traffic: all of it masked, in builtin types or as JSON.

Nothing that is a key by its name and nothing that opens a lease leaves here, and a search looks at
the masked texts, so that it cannot be used to guess what is behind a mask. What takes long runs in
a thread on data that changes no more, so that the tunnel's traffic goes on.
"""

import asyncio
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, Final

import msgspec

from ..._version import __version__
from ...aio.tasks import in_thread
from ...traffic.exchange import InboundRequest
from ...traffic.har import HarRecord, har_log
from ...traffic.log import Owner, TrafficLog
from ...traffic.masking import MASK, Masker
from ...traffic.recorder import RecordedRequest

__all__ = ["TrafficView"]

_BATCH: Final = 100
"""So many requests are masked in one go when all are looked at."""


class TrafficView:
    """See the module's text.

    Args:
        log: the run's traffic.
        secrets: returns what opens the run's leases.

    Attributes:
        masker: masks keys.
    """

    def __init__(self, log: TrafficLog, secrets: Callable[[], Iterable[str]]) -> None:
        self._log = log
        self.masker = Masker()
        self._secrets = secrets
        self._busy = asyncio.Lock()
        """Held while all requests are looked at: one thread does that at a time."""

    def _records(self, after: int = 0) -> list[RecordedRequest]:
        """Return what is recorded, oldest first.

        Args:
            after: the number from which on, itself not.
        """
        log = self._log
        numbers = range(max(after, log.dropped) + 1, log.last_sequence + 1)
        found = map(log.find, numbers)
        return [request for request in found if isinstance(request, RecordedRequest)]

    def encode(self, value: object) -> bytes:
        """Return a value as JSON in which no secret of a lease stands."""
        return self._without_secrets(msgspec.json.encode(value))

    def _without_secrets(self, text: bytes) -> bytes:
        for secret in self._secrets():
            text = text.replace(secret.encode(), MASK.encode())
        return text

    # --- a row of the list

    def summary(self, request: RecordedRequest) -> dict[str, Any]:
        """Return what the page's list shows of a request, as its record."""
        data = request.summary()
        data["query"] = self.masker.query(data["query"])
        return {**self._owner(request), "request": data}

    def _owner(self, request: RecordedRequest) -> dict[str, Any]:
        test, worker, is_late = self._log.owner_of(request)
        return {"test": test, "worker": worker, "late": is_late}

    # --- one request

    async def detail(self, request: RecordedRequest) -> dict[str, Any]:
        """Return all of a request, as its record."""
        data = request.data()
        return {**self._owner(request), "request": await in_thread(partial(self._shown, data))}

    def masked(self, request: RecordedRequest) -> InboundRequest:
        """Return a request as :meth:`detail` shows it."""
        return InboundRequest.from_data(self._shown(request.data()))

    def _shown(self, data: Mapping[str, Any]) -> dict[str, Any]:
        """Return the data of a request, masked."""
        masked = self.masker.request(_inbound(data)).to_data()
        bodies = [masked, masked["response"], *masked["messages"]]
        for body in bodies:
            for name in ("body", "data"):
                if body and body.get(name):
                    content = b64decode(body[name])
                    clean = self._without_secrets(content)
                    if clean != content:
                        body[name] = b64encode(clean).decode()
        shown: dict[str, Any] = msgspec.json.decode(self.encode(masked))
        return shown

    # --- all requests

    async def search(self, text: str, after: int) -> list[int]:
        """Return the numbers of the requests that hold a text in a body or a message.

        Args:
            text: upper and lower case are the same.
            after: only requests with a higher number are looked at.
        """
        wanted = text.lower()
        found: list[int] = []
        async with self._busy:
            records = self._records(after)
            for start in range(0, len(records), _BATCH):
                data = [request.data() for request in records[start : start + _BATCH]]
                found += await in_thread(partial(self._holding, data, wanted))
        return found

    def _holding(self, batch: list[dict[str, Any]], wanted: str) -> list[int]:
        return [
            data["sequence"]
            for data in batch
            if any(wanted in text.lower() for text in self._texts(_inbound(data)))
        ]

    def _texts(self, request: InboundRequest) -> Iterable[str]:
        """Return the texts of a request's bodies and messages, masked."""
        masked = self.masker.request(request)
        texts = [masked.text]
        if masked.answered:
            texts.append(masked.response.text)
        texts += [message.data for message in masked.messages if isinstance(message.data, str)]
        return [self._without_secrets(text.encode()).decode() for text in texts]

    async def har(self) -> bytes:
        """Return all requests as a HAR file."""
        entries: list[HarRecord] = []
        async with self._busy:
            records = self._records()
            for start in range(0, len(records), _BATCH):
                batch = [
                    (request.data(), self._log.owner_of(request))
                    for request in records[start : start + _BATCH]
                ]
                entries += await in_thread(partial(self._har_records, batch))
            comment = f"{len(entries)} requests, as the inspector showed them"
            log = partial(har_log, entries, version=__version__, comment=comment, run_id="")
            return await in_thread(lambda: self.encode(log()))

    def _har_records(self, batch: list[tuple[dict[str, Any], Owner]]) -> list[HarRecord]:
        return [
            HarRecord(InboundRequest.from_data(self._shown(data)), *owner) for data, owner in batch
        ]


def _inbound(data: Mapping[str, Any]) -> InboundRequest:
    """Read a recorded request, whose bodies are bytes."""
    return InboundRequest.from_data(msgspec.to_builtins(data))

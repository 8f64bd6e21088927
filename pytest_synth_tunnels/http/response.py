"""A response of the local app, as its request's owner and its connection see it. No I/O."""

from enum import Enum, auto
from typing import TYPE_CHECKING, Final, Protocol

from .headers import HOP_BY_HOP, Headers, HeaderTable

if TYPE_CHECKING:
    from .client_connection import ClientConnection

__all__ = ["ConnectionWaiter", "Kind", "OriginError", "ResponseHandler", "names"]


class OriginError(Exception):
    """The app gave no whole answer. The message names its host and port.

    Attributes:
        unanswered: a reused connection ended before one byte of the answer: the app was most
            likely closing it while the request was on its way.
    """

    def __init__(self, message: str, *, unanswered: bool = False) -> None:
        super().__init__(message)
        self.unanswered = unanswered


class ConnectionWaiter(Protocol):
    """Who waits for a connection. Nothing here may raise or block."""

    def connected(self, connection: "ClientConnection") -> None:
        """Begin the request on this connection."""

    def failed(self, error: OriginError) -> None:
        """Take note that nothing more will come."""


class ResponseHandler(ConnectionWaiter, Protocol):
    """Whose request it is."""

    def response_started(self, status: int, headers: Headers, located: bool) -> None:
        """Take the final status and the headers, without the hop-by-hop ones.

        Args:
            status: 200 or more.
            headers: names as the app wrote them.
            located: there is a ``Location`` or ``Content-Location`` among them.
        """

    def response_body(self, data: bytes) -> None:
        """Take a piece of the body."""

    def response_paused(self) -> None:
        """Take note that the rest of a response that has begun did not come in the same read."""

    def response_ended(self) -> None:
        """Take note that the response is complete."""

    def pause_writing(self) -> None:
        """Stop sending body: the app is slow."""

    def resume_writing(self) -> None:
        """Go on after :meth:`pause_writing`."""


class Kind(Enum):
    """What a response header is to a connection."""

    LOCATION = auto()
    LENGTH = auto()
    CODING = auto()
    CONNECTION = auto()
    DROPPED = auto()


_KINDS: Final = {
    **dict.fromkeys(HOP_BY_HOP, Kind.DROPPED),
    "connection": Kind.CONNECTION,
    "transfer-encoding": Kind.CODING,
    "content-length": Kind.LENGTH,
    "location": Kind.LOCATION,
    "content-location": Kind.LOCATION,
}


def _note(name: bytes) -> tuple[str, Kind | None]:
    """Return a name as text, and its kind unless it is plain."""
    text = name.decode("latin-1")
    return text, _KINDS.get(text.lower())


names = HeaderTable(_note)
"""Response header names as they came → text, and their kind unless they are plain."""

"""What a connector is: it brings the public traffic of a lease to the local gateway.

A connector runs inside the keeper, on its event loop. The keeper makes one from an
:class:`Assignment`, starts it, waits until it is ready, asks for its status now and then, and
stops it::

    connector = load("cloudflared", registered={})(assignment)
    await connector.start()
    async with asyncio.timeout(30):
        origin = await connector.ready()
    ...
    await connector.stop()

A connector that runs a program is best derived from
:class:`~.program.ProgramConnector`, which needs little more than the program's arguments and the
lines by which the program tells its state.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Final, Protocol
from urllib.parse import urlsplit

from ..sdk.hinted_error import HintedError

__all__ = ["Assignment", "Connector", "ConnectorError", "ConnectorStatus"]

_SECRET_WORDS: Final = ("token", "secret", "key", "password", "access_client_id")
_SHORTEST_SECRET: Final = 6
"""Masking a shorter value would hide ordinary words."""


class ConnectorError(HintedError):
    """A connector cannot do its work.

    Args:
        message: what failed, for people, without secrets.
        hint: what to do about it, for people, without secrets.
    """

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__("CONNECTOR_FAILED", message, hint)


@dataclass(frozen=True, slots=True)
class ConnectorStatus:
    """The state of a connector at one moment.

    Attributes:
        connected: traffic comes through, as far as the connector can tell.
        error: why no traffic comes through, for people, without secrets; empty while it does.
    """

    connected: bool
    error: str = ""


@dataclass(frozen=True, slots=True)
class Assignment:
    """What a connector has to do, and with what.

    Attributes:
        gateway_url: where to bring the traffic, its paths unchanged (``http://127.0.0.1:8016``).
        lease: the backend's answer to ``create_lease``; empty for a connector that brings its
            own URL and has no lease.
        environ: the environment of the test run. Programs get a part of it only.
        cloudflared: name or path of the cloudflared program, if one is configured.
    """

    gateway_url: str
    lease: Mapping[str, Any] = field(default_factory=dict, repr=False)
    environ: Mapping[str, str] = field(default_factory=dict, repr=False)
    cloudflared: str | None = None

    def need(self, name: str) -> str:
        """Return a text that the lease must have.

        Args:
            name: ``tunnel_token``, for example.

        Raises:
            ConnectorError: it has none.
        """
        value = self.lease.get(name)
        if not value or not isinstance(value, str):
            raise ConnectorError(
                f"the backend's lease has no {name}",
                "Is the backend one that serves this provider? Try synth_tunnels_provider = "
                "synthtunnel, or cloudflared-quick, which needs no lease",
            )
        return value

    def secrets(self) -> list[str]:
        """Return what must not be seen in lines, messages and errors, longest first."""
        found = {
            value
            for name, value in (*self.lease.items(), *self.environ.items())
            if isinstance(value, str) and any(word in name.lower() for word in _SECRET_WORDS)
        }
        for name, value in self.environ.items():
            if name.lower().endswith("_proxy"):
                found.add(_password(value))
        return sorted((x for x in found if len(x) >= _SHORTEST_SECRET), key=len, reverse=True)


class Connector(Protocol):
    """What every provider's class offers.

    Attributes:
        brings_url: it makes the public origin itself, so that no lease of a backend is needed.
        is_public: the internet can reach the gateway through it.
    """

    brings_url: ClassVar[bool]
    is_public: ClassVar[bool]

    def __init__(self, assignment: Assignment) -> None: ...

    async def start(self) -> None:
        """Begin, without waiting for the connection.

        Raises:
            ConnectorError: it cannot begin: a program or a token is missing, for example.
        """

    async def ready(self) -> str | None:
        """Wait until it is connected, for as long as the caller likes.

        The keeper calls this again and again: for each lease that shares the connector, and with
        each heartbeat of a connector that :attr:`brings_url`.

        Returns:
            The public origin (``https://…`` without a path) if it :attr:`brings_url`.

        Raises:
            ConnectorError: it is certain that it will not be connected.
        """

    def status(self) -> ConnectorStatus:
        """Return its state. Cheap, and may be called from any thread."""

    async def stop(self) -> None:
        """End within some seconds, and leave nothing behind. Harmless when repeated."""

    def logs(self) -> list[str]:
        """Return the last lines that it has to show, secrets masked."""


def _password(url: str) -> str:
    try:
        return urlsplit(url).password or ""
    except ValueError:
        return ""

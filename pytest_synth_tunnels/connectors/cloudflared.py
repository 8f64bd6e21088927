"""The connector of Cloudflare tunnels: ``cloudflared tunnel run`` with the lease's token.

The lines that tell the state of cloudflared are those of the protocol, section 4
(``Registered tunnel connection``, ``Connection … registered``; ``failed to connect``,
``invalid … token``, ``tunnel … not … found``, ``unauthorized``, ``rate … limit``), and what
cloudflared prints besides (checked with 2026.8 and with its sources: ``supervisor/``,
``connection/`` and ``cmd/cloudflared/tunnel/``). Of the failures,

- a token that is not valid and a tunnel that does not exist are final;
- ``unauthorized`` is final at the third time: cloudflared itself tries again, since the edge may
  not know a new tunnel yet;
- a rate limit is final only if there has been no connection: those who wait are told at once,
  while a tunnel that has worked is tried again with long pauses;
- everything else is cloudflared's own to retry. It ends when it gives up, which is final if it
  never was connected, and else has it started again.
"""

import os
from collections.abc import Mapping
from typing import ClassVar, Final

from .output_rules import Outcome, OutputRule
from .program import ProgramConnector

__all__ = ["CloudflaredConnector"]

HOW_TO_GET: Final = (
    "Install cloudflared (brew install cloudflared; winget install Cloudflare.cloudflared; for "
    "apt, yum and plain binaries see https://developers.cloudflare.com/cloudflare-one/networks/"
    "connectors/cloudflare-tunnel/downloads/), or set synth_tunnels_cloudflared to its path"
)

_NETWORK: Final = (
    "cloudflared must be able to reach Cloudflare on port 7844 (UDP or TCP) and to resolve "
    "argotunnel.com: check the network, its firewall and its DNS"
)
_REJECTED: Final = "The lease's tunnel token is not accepted any more: run again for a new lease"
_LIMITED: Final = "Wait some minutes before the next run, or use another synth_tunnels_provider"

_LINK: Final = r"(?:.*\bconnIndex=(?P<link>\d+))?"
"""cloudflared keeps up to four connections, each with an index."""

CONNECTIONS: Final = (
    # A line about a request that came through the tunnel: its URL may hold any words.
    OutputRule(Outcome.NOTHING, r"\b(?:dest|originService|cfRay)="),
    OutputRule(Outcome.UP, rf"\bRegistered tunnel connection\b{_LINK}"),
    OutputRule(Outcome.UP, rf"\bConnection \S+ registered\b{_LINK}"),
    OutputRule(Outcome.LOST, rf"\bUnregistered tunnel connection\b{_LINK}"),
    OutputRule(Outcome.LOST, rf"\bLost connection with the edge\b{_LINK}"),
    OutputRule(Outcome.LOST, rf"\bRetrying connection in\b{_LINK}"),
    OutputRule(Outcome.OVER, r"\binvalid\b.{0,40}\btoken\b|\btoken is not valid\b", _REJECTED),
    OutputRule(Outcome.OVER, rf"\bunauthorized\b{_LINK}", _REJECTED, times=3),
    OutputRule(Outcome.OVER, rf"\btunnel\b.{{0,60}}\bnot\b.{{0,10}}\bfound\b{_LINK}", _REJECTED),
    OutputRule(
        Outcome.REFUSED,
        rf"(?:\brate\b.{{0,20}}\blimit|\b429 Too Many Requests\b|\berror code: 1015\b){_LINK}",
        _LIMITED,
    ),
    OutputRule(Outcome.FAILED, rf"\bfailed to connect\b{_LINK}", _NETWORK),
    OutputRule(Outcome.FAILED, rf"\bFailed to dial\b{_LINK}", _NETWORK),
    OutputRule(Outcome.FAILED, rf"\bUnable to establish connection\b{_LINK}", _NETWORK),
    OutputRule(Outcome.FAILED, r"\bedge discovery: error\b", _NETWORK),
    OutputRule(Outcome.FAILED, rf"\bRegister tunnel error\b{_LINK}"),
    OutputRule(Outcome.FAILED, rf"\b(?:Serve tunnel error|Connection terminated)\b{_LINK}"),
    OutputRule(Outcome.FAILED, r"^Incorrect Usage\b|\bflag provided but not defined\b", HOW_TO_GET),
)
"""The lines that named tunnels and quick tunnels have in common."""


class CloudflaredConnector(ProgramConnector):
    """Runs the tunnel whose token the lease has. Where its hostname leads is set at Cloudflare."""

    name: ClassVar[str] = "cloudflared"
    how_to_get: ClassVar[str] = HOW_TO_GET
    output_rules: ClassVar[tuple[OutputRule, ...]] = CONNECTIONS

    def arguments(self) -> list[str]:
        """Return the program and its arguments, without the token."""
        return [*base_arguments(self), "run", "--url", self.assignment.gateway_url]

    def environment(self) -> Mapping[str, str]:
        """Return the token."""
        return {"TUNNEL_TOKEN": self.assignment.need("tunnel_token")}


def base_arguments(connector: ProgramConnector) -> list[str]:
    """Return the program and the arguments that both connectors begin with. They keep cloudflared
    from reading a configuration file that this user or machine has for other tunnels."""
    program = connector.assignment.cloudflared or "cloudflared"
    return [program, "tunnel", "--config", os.devnull, "--no-autoupdate"]

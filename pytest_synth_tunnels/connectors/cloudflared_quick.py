"""The connector of Cloudflare's quick tunnels, which need no account and no lease.

cloudflared asks Cloudflare for a name below trycloudflare.com, prints it in a frame of dashes, and
then connects as any other tunnel does. A quick tunnel that is started again has another name.
"""

from typing import ClassVar

from .cloudflared import CONNECTIONS, HOW_TO_GET, base_arguments
from .output_rules import Outcome, OutputRule
from .program import ProgramConnector

__all__ = ["CloudflaredQuickConnector"]

_INTERNET = "Is api.trycloudflare.com reachable from here? Quick tunnels need the internet"


class CloudflaredQuickConnector(ProgramConnector):
    """Gives the gateway a public URL of its own."""

    name: ClassVar[str] = "cloudflared"
    how_to_get: ClassVar[str] = HOW_TO_GET
    brings_url: ClassVar[bool] = True
    output_rules: ClassVar[tuple[OutputRule, ...]] = (
        # The API's own host is excluded: error lines name it.
        OutputRule(
            Outcome.NOTHING,
            r"\|\s+(?P<origin>https://(?!api\.)[a-z0-9-]+(?:\.[a-z0-9-]+)*\.trycloudflare\.com)\s",
        ),
        *CONNECTIONS,
        OutputRule(
            Outcome.FAILED,
            r"\bfailed to (?:request|read|parse|unmarshal) quick[ -]tunnel\b",
            _INTERNET,
        ),
    )

    def arguments(self) -> list[str]:
        """Return the program and its arguments."""
        return [*base_arguments(self), "--url", self.assignment.gateway_url]

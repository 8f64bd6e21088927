"""The connector of ngrok, by its official Python package, the extra ``ngrok``.

The package runs in a process of its own: its threads would otherwise stay in the keeper until the
keeper's end, and nothing could end an attempt to connect that hangs.
"""

import asyncio
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import Any, ClassVar, Final, NoReturn, TypedDict

from .base import ConnectorError
from .output_rules import Outcome, OutputRule
from .python_process import PythonConnector, Say, run

__all__ = ["NgrokConfig", "NgrokConnector", "main", "package_version", "serve"]

_HOW_TO_GET: Final = "Install it with: pip install 'pytest-synth-tunnels[ngrok]'"
_TOKEN_VARIABLE: Final = "NGROK_AUTHTOKEN"  # noqa: S105 - a name
_TOKEN_PAGE: Final = "https://dashboard.ngrok.com/get-started/your-authtoken"  # noqa: S105


class NgrokConfig(TypedDict):
    """What the process is told.

    Attributes:
        token: the authtoken.
        domain: the wanted host name; empty for whichever ngrok gives.
        target: the gateway's URL.
    """

    token: str
    domain: str
    target: str


class NgrokConnector(PythonConnector):
    """Brings traffic through ngrok, with the lease's token and host name if it has some, else
    with the ``NGROK_AUTHTOKEN`` of the run and a URL of ngrok's choice."""

    name: ClassVar[str] = "ngrok"
    brings_url: ClassVar[bool] = True
    is_public: ClassVar[bool] = True
    module: ClassVar[str] = __name__
    output_rules: ClassVar[tuple[OutputRule, ...]] = (
        # The lines that serve(), below, prints.
        OutputRule(Outcome.UP, r"^connected: (?P<origin>https?://\S+)$"),
        OutputRule(
            Outcome.OVER,
            r"^failed: .*\bauthentication failed\b",
            f"Check {_TOKEN_VARIABLE}: the right one is at {_TOKEN_PAGE}",
        ),
        OutputRule(
            Outcome.REFUSED,
            r"^failed: .*\b(?:rate limit|too many|limited to)\b",
            "End other ngrok agents of this account, or wait some minutes",
        ),
        OutputRule(
            Outcome.FAILED,
            r"^failed: .*\bfailed to (?:establish|connect)\b",
            "Is ngrok's service reachable from here? See https://ngrok.com/docs/agent/#network",
        ),
        OutputRule(Outcome.FAILED, r"^(?:failed|offline): "),
    )

    def config(self) -> NgrokConfig:
        """Return token, name and target."""
        package_version()
        lease = self.assignment.lease
        # The token of an embedded backend's lease is good for that backend alone.
        own = not lease.get("edge_url") and lease.get("tunnel_token")
        token = lease["tunnel_token"] if own else self.assignment.environ.get(_TOKEN_VARIABLE)
        if not token:
            raise ConnectorError(
                "ngrok has no authtoken", f"Set {_TOKEN_VARIABLE}; yours is at {_TOKEN_PAGE}"
            )
        return NgrokConfig(
            token=token,
            domain=str((own and lease.get("hostname")) or ""),
            target=self.assignment.gateway_url,
        )


def package_version() -> str:
    """Return the version of the package.

    Raises:
        ConnectorError: it is not installed.
    """
    try:
        return version("ngrok")
    except PackageNotFoundError:
        raise ConnectorError("the Python package ngrok is not installed", _HOW_TO_GET) from None


async def serve(config: NgrokConfig, say: Say, ended: asyncio.Event) -> None:
    """Carry the traffic.

    Args:
        config: of which traffic.
        say: takes a line whenever something changes: ``connected: origin``, ``offline: why``, and
            ``failed: why``, after which there is nothing more to do.
        ended: set when it is to end.
    """
    ngrok: Any = import_module("ngrok")
    origin = ""
    offline = False

    def lost(_address: str, error: str) -> None:
        nonlocal offline
        offline = True
        say(f"offline: {_line(error)}")

    def alive(_latency_ms: int) -> None:
        nonlocal offline
        if offline and origin:
            offline = False
            say(f"connected: {origin}")

    builder = ngrok.SessionBuilder().authtoken(config["token"])
    builder = builder.handle_disconnection(lost).handle_heartbeat(alive)
    try:
        session = await builder.connect()
        endpoint = session.http_endpoint()
        if config["domain"]:
            endpoint = endpoint.domain(config["domain"])
        listener = await endpoint.listen_and_forward(config["target"])
    except (ValueError, OSError) as error:
        say("failed: " + ": ".join(map(_line, error.args)))
        raise SystemExit(1) from None
    origin = listener.url()
    say(f"connected: {origin}")
    await ended.wait()
    await session.close()


def main(config: NgrokConfig) -> NoReturn:
    """Run the process."""
    run(lambda say, ended: serve(config, say, ended))


def _line(text: object) -> str:
    return " ".join(str(text).split())

"""A stand-in for the cloudflared program: it prints what the real one prints, and carries real
traffic, from a relay on loopback instead of Cloudflare's edge.

:func:`install` writes one that connectors can run; what the connector's environment would keep
from it is written into it:

``STANDIN_EDGE_URL``
    the WebSocket URL that it dials as its edge (``edge_url`` of an embedded backend's lease).
``STANDIN_TUNNEL_ID``
    what it attaches as (``managed_tunnel_id``), unless the token itself names it, as real tokens
    and those of :func:`tunnel_token` do.
``STANDIN_TOKEN``
    the token of a quick tunnel; others come by ``TUNNEL_TOKEN``, as the real one's do.
``STANDIN_HOSTNAME``
    the host name of a quick tunnel.
"""

import argparse
import asyncio
import base64
import json
import os
import signal
import sys
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

__all__ = ["install", "tunnel_token"]

AT = "connIndex=0 event=0 ip=127.0.0.1"

_WRAPPER = """\
#!{python} -I
import os, runpy, sys
sys.path[:] = {path!r}
os.environ.update({environ!r})
runpy.run_path({program!r}, run_name="__main__")
"""


def install(directory: Path, name: str = "cloudflared", **environ: str) -> Path:
    """Write the program.

    Args:
        directory: where; to be put in front of ``PATH``, or the path is given to the connector.
        name: of the file.
        environ: the variables above.

    Returns:
        Its path.
    """
    path = directory / name
    path.write_text(
        _WRAPPER.format(python=sys.executable, path=sys.path, environ=environ, program=__file__)
    )
    path.chmod(0o755)
    return path


def tunnel_token(tunnel_id: str) -> str:
    """Return a token in the form of the real ones, which name their tunnel."""
    secret = base64.b64encode(os.urandom(32)).decode()
    token = {"a": os.urandom(16).hex(), "t": tunnel_id, "s": secret}
    return base64.b64encode(json.dumps(token).encode()).decode()


def tell(level: str, message: str) -> None:
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    print(f"{now} {level} {message}", file=sys.stderr, flush=True)


def tell_frame(*lines: str) -> None:
    width = max(map(len, lines)) + 4
    tell("INF", f"+{'-' * width}+")
    for line in lines:
        tell("INF", f"|  {line.ljust(width - 2)}|")
    tell("INF", f"+{'-' * width}+")


def tunnel_id_of(token: str) -> str:
    try:
        return str(json.loads(base64.b64decode(token))["t"])
    except (ValueError, TypeError, KeyError):
        return os.environ["STANDIN_TUNNEL_ID"]


class Edge:
    """What became of the connection to the edge, told as the real one tells it."""

    def __init__(self) -> None:
        self.refused = False

    def changed(self, connected: bool, reason: str) -> None:
        self.refused = "401" in reason
        if connected:
            tell(
                "INF",
                "Registered tunnel connection connIndex=0 "
                f"connection={uuid4()} event=0 ip=127.0.0.1 location=lo protocol=quic",
            )
        elif self.refused:
            self.tell_refused()
        else:
            tell("ERR", f'Failed to dial a quic connection error="{reason}" {AT}')
            tell("INF", f"Retrying connection in up to 1s {AT}")

    def tell_refused(self) -> None:
        why = "Unauthorized: Invalid tunnel secret"
        tell("ERR", f'Register tunnel error from server side error="{why}" {AT}')
        tell("INF", f"Retrying connection in up to 1s {AT}")


async def carry(token: str, target: str) -> None:
    from pytest_synth_tunnels.agent.agent import Agent
    from pytest_synth_tunnels.agent.dialer import Dialer
    from pytest_synth_tunnels.agent.target import Target

    tunnel_id, edge_url = tunnel_id_of(token), os.environ["STANDIN_EDGE_URL"]
    tell("INF", f"Starting tunnel tunnelID={tunnel_id}")
    ended = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, ended.set)
    edge = Edge()
    agent = Agent(patience_s=0)
    agent.leases.serve(tunnel_id, edge_url.replace("ws", "http", 1), max_inflight=1024)
    agent.leases.set_target(tunnel_id, "", Target.from_url(target))
    dialer = Dialer(agent, edge_url, token, on_change=edge.changed, backoff_s=(0.05, 0.5))
    await dialer.start()
    while not ended.is_set():
        with suppress(TimeoutError):
            await asyncio.wait_for(ended.wait(), 0.1)
        if edge.refused:  # the dialer tells the same news only once
            edge.tell_refused()
    tell("INF", "Initiating graceful shutdown due to signal terminated ...")
    await dialer.close()
    await agent.close()
    tell("INF", "Unregistered tunnel connection connIndex=0 event=0 ip=127.0.0.1")
    tell("INF", "Tunnel server stopped")


def main() -> None:
    parser = argparse.ArgumentParser(prog="cloudflared", allow_abbrev=False)
    parser.add_argument("--version", action="version", version="%(prog)s version 2026.8.0")
    parser.add_argument("words", nargs="+")
    parser.add_argument("--config")
    parser.add_argument("--no-autoupdate", action="store_true")
    parser.add_argument("--url", required=True)
    arguments = parser.parse_intermixed_args()
    if arguments.words == ["tunnel", "run"]:
        token = os.environ.get("TUNNEL_TOKEN", "")
        if len(token) < 16:
            print("Provided Tunnel token is not valid.", file=sys.stderr)
            print("See 'cloudflared tunnel run --help'.", file=sys.stderr)
            sys.exit(255)
    elif arguments.words != ["tunnel"]:
        parser.error(f"unknown words {arguments.words}")
    else:
        token = os.environ["STANDIN_TOKEN"]
        tell("INF", "Requesting new quick Tunnel on trycloudflare.com...")
        hostname = os.environ.get("STANDIN_HOSTNAME", "made-of-four-words.trycloudflare.com")
        tell_frame(
            "Your quick Tunnel has been created! Visit it at (it may take some time to be "
            "reachable):",
            f"https://{hostname}",
        )
    asyncio.run(carry(token, arguments.url))


if __name__ == "__main__":
    main()

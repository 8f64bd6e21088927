"""``python -m pytest_synth_tunnels.backend``: the embedded backend on its own.

The first line on stdout is one JSON object that says where it is. It ends on SIGTERM and Ctrl-C.
"""

import argparse
import asyncio
import contextlib
import json
import os
import signal
import sys
from urllib.parse import urlsplit

from ..aio.runtime import run
from ..sdk.resolve import is_loopback
from .server import Backend

__all__ = ["main"]

API_KEY_VARIABLE = "SYNTH_API_KEY"


_PROGRAM = "python -m pytest_synth_tunnels.backend"


def main(argv: list[str] | None = None, *, prog: str = _PROGRAM) -> int:
    """Serve until told to stop.

    Args:
        argv: the arguments; those of the process by default.
        prog: the program's name.

    Returns:
        The exit code: 0 after a signal, 1 where it cannot listen.
    """
    options = _parser(prog).parse_args(argv)
    if not is_loopback(options.host):
        _tell(
            f"warning: {options.host} is not a loopback address: other machines can reach this "
            "backend, and what they send, keys included, travels unencrypted"
        )
    api_key = os.environ.get(API_KEY_VARIABLE, "").strip() or None
    try:
        run(_serve(options.host, options.port, api_key, options.public_url))
    except OSError as error:
        # asyncio's own text repeats the address; a failed look-up has a negative number.
        known = error.errno is not None and error.errno > 0
        reason = os.strerror(error.errno or 0) if known else error.strerror or str(error)
        _tell(
            f"error: cannot listen on {options.host}:{options.port}: {reason}; "
            "choose another --host or --port (port 0 is any free one)"
        )
        return 1
    except KeyboardInterrupt:  # where the loop takes no signal handlers
        pass
    return 0


async def _serve(host: str, port: int, api_key: str | None, public_url: str | None) -> None:
    """Serve until a signal comes. Raises OSError if it cannot listen."""
    stopping = asyncio.Event()
    with contextlib.suppress(NotImplementedError):
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    backend = Backend(api_key=api_key, public_url=public_url)
    await backend.start(host, port)
    try:
        about = {
            "backend_url": backend.url,
            "public_base_url": backend.public_url,
            "pid": os.getpid(),
        }
        if api_key is None:
            about["api_key"] = backend.api_key
        # A reader that is gone has what it wanted, or will send the signal.
        with contextlib.suppress(BrokenPipeError):
            sys.stdout.write(json.dumps(about) + "\n")
            sys.stdout.flush()
        await stopping.wait()
    finally:
        await backend.close()


def _parser(prog: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=prog,
        description="Serve the Synth tunnels API, its relay and its public ingress on one port.",
        epilog=f"The API key is taken from {API_KEY_VARIABLE}, or made and printed.",
    )
    parser.add_argument("--host", default="127.0.0.1", help="address (default: %(default)s)")
    parser.add_argument(
        "--port", type=_port, default=8787, help="port; 0 is any free one (default: %(default)s)"
    )
    parser.add_argument(
        "--public-url",
        type=_origin,
        metavar="URL",
        help="the origin of the proxy in front of it, such as https://tunnels.example.com, by "
        "which clients, agents and callers come (default: where it listens)",
    )
    return parser


def _origin(text: str) -> str:
    parts = urlsplit(text)
    if parts.scheme not in ("http", "https") or not parts.hostname or "@" in parts.netloc:
        raise argparse.ArgumentTypeError("it must be a URL such as https://tunnels.example.com")
    if parts.path not in ("", "/") or parts.query or parts.fragment:
        raise argparse.ArgumentTypeError("it must be an origin: a URL without a path")
    return f"{parts.scheme}://{parts.netloc}"


def _port(text: str) -> int:
    port = int(text)
    if not 0 <= port <= 65_535:
        raise ValueError
    return port


def _tell(line: str) -> None:
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(main())

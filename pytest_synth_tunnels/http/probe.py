"""One GET to a server on this machine, without the cost of an HTTP client.

For questions whose answer is a status or a few bytes: whether an app, a gateway or a tunnel is
there. Importing a client takes longer than asking.
"""

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

if TYPE_CHECKING:
    import ssl

__all__ = ["get", "get_status"]

_MAX_ANSWER_BYTES: Final = 65_536


async def get_status(host: str, port: int, path: str, *, host_header: str, timeout_s: float) -> int:
    """GET a path and return the status alone, as soon as it has come.

    Args:
        host: name or address to connect to.
        port: TCP port.
        path: of the request line.
        host_header: what the server sees as ``Host``.
        timeout_s: for connection and status line together, in seconds.

    Raises:
        OSError: no connection, or no answer in time (``TimeoutError`` is one).
        ValueError: what answers does not speak HTTP/1.
    """
    request = f"GET {path} HTTP/1.1\r\nHost: {host_header}\r\nConnection: close\r\n\r\n"
    async with asyncio.timeout(timeout_s), _asked(host, port, request) as reader:
        return _status(await reader.readline())


async def get(
    host: str,
    port: int,
    path: str,
    *,
    host_header: str,
    headers: Iterable[tuple[str, str]] = (),
    timeout_s: float,
    ssl_context: "ssl.SSLContext | None" = None,
) -> tuple[int, bytes]:
    """GET a path and return the status and the body.

    The question is asked in HTTP/1.0, so that the body is plain bytes up to the end of the
    connection. It is cut off where the whole answer has more than 64 KiB.

    Args:
        host: name or address to connect to.
        port: TCP port.
        path: of the request line.
        host_header: what the server sees as ``Host``.
        headers: further ones.
        timeout_s: for all of it, in seconds.
        ssl_context: for a server that speaks TLS. Its certificate must be for the host that
            ``host_header`` names.

    Raises:
        OSError: no connection, or no answer in time (``TimeoutError`` is one).
        ValueError: what answers does not speak HTTP/1.
    """
    lines = [f"GET {path} HTTP/1.0", f"Host: {host_header}"]
    lines += [f"{name}: {value}" for name, value in headers]
    request = "\r\n".join([*lines, "", ""])
    answer = b""
    server_name = urlsplit(f"//{host_header}").hostname if ssl_context else None
    asked = _asked(host, port, request, ssl_context, server_name)
    async with asyncio.timeout(timeout_s), asked as reader:
        while len(answer) < _MAX_ANSWER_BYTES and (data := await reader.read(_MAX_ANSWER_BYTES)):
            answer += data
    head, _, body = answer.partition(b"\r\n\r\n")
    return _status(head), body


@asynccontextmanager
async def _asked(
    host: str,
    port: int,
    request: str,
    ssl_context: "ssl.SSLContext | None" = None,
    server_name: str | None = None,
) -> AsyncIterator[asyncio.StreamReader]:
    """Connect, send a request, and close the connection at the end."""
    reader, writer = await asyncio.open_connection(
        host, port, ssl=ssl_context, server_hostname=server_name
    )
    try:
        writer.write(request.encode("latin-1", "replace"))
        yield reader
    finally:
        writer.close()


def _status(head: bytes) -> int:
    """Return the status that a head begins with."""
    words = head.split(None, 2)
    if len(words) < 2 or not words[0].startswith(b"HTTP/1.") or not words[1].isdigit():
        raise ValueError("it does not speak HTTP")
    return int(words[1])

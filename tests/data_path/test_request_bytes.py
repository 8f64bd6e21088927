"""What an app sees of a request, byte for byte: through the tunnel as directly."""

import asyncio
from collections.abc import Awaitable, Callable
from urllib.parse import urlsplit

import pytest

from ..support.live_tunnels import Tunnels

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"

TARGETS = [
    *("/", "//", "/?", "/x?", "/x??", "/x?a=1?b=2&&&=", "/a/../b/./c", "/%2e%2E/%2F", "/%zz%"),
    *("/a;b=c,d:@!$&'()*+", '/"<>\\^`{|}', "/~x/y", "/~", "/%7Ex", "/a%00b", "/[x]", "/a?/s/rt_1"),
    *("/__synth/x", "/x//y/", "/" + "x" * 20_000),
]

HEADERS = [
    ["x-a: 1", "X-A: 2", "X-a: 3", "x_a: 4"],
    ["Cookie: b=2", "Accept: */*", "Cookie: a=1", "User-Agent: ", "accept: text/html"],
    ["x!#$%&'*+-.^_`|~: 1", "X-Tab: a\tb  c", "X-Latin: caf\xe9 \x80\xff", 'X-Quote: "a, \\"b"'],
    ["Proxy-Authorization: Basic eDp5", "A: 1"],
    ["Authorization: Bearer the app's own", "Authorization: Basic eDp5"],
    ["Origin: null", "Referer: about:blank", "Date: now", "Via: 1.1 x", "Forwarded-For: 1"],
    ["X-Forwarded-User: me", "X-Forwarded-Port: 1", "X-Real-IP: 10.0.0.1", "X-Request-Id: 1"],
    ["Range: bytes=0-", 'If-None-Match: W/"x"', "Accept-Encoding: gzip, br;q=0", "DNT: 1"],
    [f"X-{n}: {'v' * n}" for n in range(100)],
]

BODIES = [
    ("POST", ["A: 1", "content-length: 2", "B: 2"], b"ab"),
    ("POST", ["CONTENT-LENGTH: 002", "B: 2"], b"ab"),
    ("POST", ["Content-Length: 0"], b""),
    ("GET", ["Content-Length: 3", "B: 2"], b"abc"),
    ("GET", ["Content-Length: 0"], b""),
    *((method, ["A: 1"], b"") for method in ("POST", "PUT", "PATCH", "DELETE", "OPTIONS", "PURGE")),
    ("get", ["A: 1"], b""),
]

OWN = (
    *("x-forwarded-for:", "x-forwarded-host:", "x-forwarded-proto:", "x-forwarded-prefix:"),
    *("x-synthtunnel-", "connection:"),
)
"""What the tunnel writes itself, or what concerns one connection."""


class RecordingApp:
    """Keeps the heads of requests as they came."""

    def __init__(self) -> None:
        self.heads: list[bytes] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                _, _, length = head.lower().partition(b"\r\ncontent-length:")
                await reader.readexactly(int(length.split(b"\r\n")[0] or b"0"))
                self.heads.append(head)
                writer.write(OK)
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()


def told(head: bytes, *, host: bool) -> list[str]:
    """Return the lines of a head that are not the tunnel's own."""
    lines = head.decode("latin-1").removesuffix("\r\n\r\n").split("\r\n")
    own = OWN if host else (*OWN, "host:")
    return [lines[0], *(line for line in lines[1:] if not line.lower().startswith(own))]


async def seen(
    app: RecordingApp, port: int, method: str, target: str, lines: list[str], body: bytes
) -> bytes:
    """Send a request on a connection of its own, and return its head as the app got it."""
    head = [f"{method} {target} HTTP/1.1", "Host: app.test:1234", *lines, "Connection: close"]
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write("\r\n".join([*head, "", ""]).encode("latin-1") + body)
        answer = await reader.readuntil(b"\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 200 "), (target, lines, answer)
    finally:
        writer.close()
    return app.heads.pop()


def run(scenario: Callable[[Tunnels], Awaitable[None]]) -> None:
    async def main() -> None:
        async with asyncio.timeout(60), Tunnels() as tunnels:
            await scenario(tunnels)

    asyncio.run(main())


@pytest.mark.parametrize("websocket", [False, True], ids=["memory", "websocket"])
@pytest.mark.parametrize("style", ["root", "path"])
def test_an_app_sees_what_the_caller_sent(style: str, websocket: bool) -> None:
    async def scenario(tunnels: Tunnels) -> None:
        app = RecordingApp()
        port = await tunnels.listen(app.serve)
        lease = tunnels.lease(port)
        origin = (await tunnels.backend.open_origin(lease.id)).public_url if style == "root" else ""
        await tunnels.attach(lease, {"": port}, websocket=websocket, origins={"": origin})
        prefix = "" if origin else lease.prefix
        public_port = urlsplit(origin or lease.public_url).port or 0
        token = f"X-SynthTunnel-Worker-Token: {lease.worker_token}"
        requests = [
            *(("GET", target, ["A: 1"], b"") for target in TARGETS),
            *(("GET", "/", lines, b"") for lines in HEADERS),
            *((method, "/", lines, body) for method, lines, body in BODIES),
        ]
        for method, target, lines, body in requests:
            direct = await seen(app, port, method, target, lines, body)
            through = await seen(app, public_port, method, prefix + target, [token, *lines], body)
            host = bool(origin)
            assert told(through, host=host) == told(direct, host=host)

    run(scenario)


@pytest.mark.parametrize("websocket", [False, True], ids=["memory", "websocket"])
@pytest.mark.parametrize("address", ["", "gw1"], ids=["lease", "address"])
def test_targets_that_are_no_path(address: str, websocket: bool) -> None:
    async def scenario(tunnels: Tunnels) -> None:
        app = RecordingApp()
        port = await tunnels.listen(app.serve)
        lease = tunnels.lease(port)
        origin = (await tunnels.backend.open_origin(lease.id, address)).public_url
        await tunnels.attach(lease, {address: port}, websocket=websocket, origins={address: origin})
        public_port = urlsplit(origin).port or 0
        token = f"X-SynthTunnel-Worker-Token: {lease.worker_token}"

        direct = await seen(app, port, "OPTIONS", "*", [], b"")
        through = await seen(app, public_port, "OPTIONS", "*", [token], b"")
        assert told(through, host=True) == told(direct, host=True)

        # A server takes the host of an absolute target, whatever Host says (RFC 9112, 3.2.2).
        through = await seen(app, public_port, "GET", "http://other.test/a%2Fb?c", [token], b"")
        assert told(through, host=True) == ["GET /a%2Fb?c HTTP/1.1", "Host: other.test"]

    run(scenario)

"""Much traffic: large bodies in little memory, and many requests at once, with both kinds of link
between relay and agent.

``SYNTH_TUNNELS_TRAFFIC=full`` makes the bodies a GiB long, those at once 2 MB each, and messages
of WebSockets 16 MiB.
"""

import os
from collections.abc import Iterator

import pytest

from .conftest import BackendProcess, CountingBackend, RuntimeDirectory, running_backend

pytestmark = [pytest.mark.acceptance, pytest.mark.timeout(600)]

FULL = os.environ.get("SYNTH_TUNNELS_TRAFFIC") == "full"
LARGE_BYTES = 1 << 30 if FULL else 160 << 20
AT_ONCE = 400
AT_ONCE_BYTES = 2_000_000 if FULL else 400_000
MESSAGE_BYTES = 16 << 20 if FULL else 4 << 20

TRAFFIC = """
import asyncio, json, os, pathlib, re, resource, zlib
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

_, MOST_FILES = resource.getrlimit(resource.RLIMIT_NOFILE)
BLOCK_BYTES = 1 << 18
LENGTH = re.compile(rb"content-length: ([0-9]+)", re.I)
CHUNKED = re.compile(rb"transfer-encoding: chunked", re.I)
peaks = {}

def peak_mib(pid):
    status = pathlib.Path(f"/proc/{pid}/status").read_text()
    (peak,) = [line for line in status.splitlines() if line.startswith("VmHWM")]
    return int(peak.split()[1]) / 1024

# Return the peak memory of the keeper, and of the backend's own process if it has one.
def look(name):
    (run_file,) = pathlib.Path(os.environ["XDG_RUNTIME_DIR"]).rglob("keeper.json")
    pids = [json.loads(run_file.read_text())["pid"], *os.environ["BACKEND_PID"].split()]
    peaks = [round(peak_mib(pid)) for pid in pids]
    print(f"{name}: {peaks} MiB")
    return peaks

def blocks(size):
    for number in range(0, size, BLOCK_BYTES):
        yield (number.to_bytes(8) * (BLOCK_BYTES // 8))[:size - number]

def checksum(size):
    value = 0
    for block in blocks(size):
        value = zlib.crc32(block, value)
    return size, value

async def send(writer, size, *, chunked):
    for block in blocks(size):
        if chunked:
            writer.write(b"%x\\r\\n" % len(block))
        writer.write(block)
        if chunked:
            writer.write(b"\\r\\n")
        await writer.drain()
    if chunked:
        writer.write(b"0\\r\\n\\r\\n")

async def pieces(reader, head):
    if CHUNKED.search(head):
        while left := int(await reader.readuntil(b"\\r\\n"), 16):
            while left:
                data = await reader.read(min(left, BLOCK_BYTES))
                left -= len(data)
                yield data
            assert await reader.readexactly(2) == b"\\r\\n"
        assert await reader.readexactly(2) == b"\\r\\n"
    elif length := LENGTH.search(head):
        left = int(length[1])
        while left:
            data = await reader.read(min(left, BLOCK_BYTES))
            if not data:
                raise EOFError(f"{left} bytes are missing")
            left -= len(data)
            yield data

# Read a body; return its length and checksum.
async def take(reader, head):
    size = value = 0
    async for data in pieces(reader, head):
        size += len(data)
        value = zlib.crc32(data, value)
    return size, value

def framing(size, chunked):
    return "Transfer-Encoding: chunked" if chunked else f"Content-Length: {size}"

# Answers with as many bytes as the path says, plain or chunked, or after a wait.
class App:

    def __init__(self):
        self.waiting = 0
        self.arrived = asyncio.Condition()
        self.release = asyncio.Event()

    async def serve(self, reader, writer):
        try:
            while head := await reader.readuntil(b"\\r\\n\\r\\n"):
                _, how, size = head.split(b" ")[1].decode().split("/")
                _, value = await take(reader, head)
                if how == "wait":
                    async with self.arrived:
                        self.waiting += 1
                        self.arrived.notify_all()
                    await self.release.wait()
                size, chunked = int(size), how == "chunked"
                lines = ["HTTP/1.1 200 OK", f"X-Got: {value}", framing(size, chunked), "", ""]
                writer.write("\\r\\n".join(lines).encode())
                await send(writer, size, chunked=chunked)
                await writer.drain()
        except (EOFError, OSError):
            pass
        finally:
            writer.close()

    async def until(self, count):
        async with self.arrived:
            await self.arrived.wait_for(lambda: self.waiting == count)

@asynccontextmanager
async def serving(port):
    app = App()
    server = await asyncio.start_server(app.serve, "127.0.0.1", port, backlog=2048)
    yield app
    server.close()

class Caller:
    def __init__(self, lease, method, path):
        self.url = urlsplit(lease.url(path))
        self.lines = [f"{method} {self.url.path} HTTP/1.1", f"Host: {self.url.netloc}"]
        self.lines += [f"{name}: {value}" for name, value in lease.headers.items()]

    async def __aenter__(self):
        self.reader, self.writer = await asyncio.open_connection(*self.url.netloc.split(":"))
        return self

    async def __aexit__(self, *exc):
        self.writer.close()

    async def begin(self, size=0, *, chunked=False):
        lines = [*self.lines, framing(size, chunked)]
        self.writer.write("\\r\\n".join([*lines, "", ""]).encode())
        if size:
            await send(self.writer, size, chunked=chunked)

    async def head(self):
        return await self.reader.readuntil(b"\\r\\n\\r\\n")

# Send a body of a size; return the status, what came, and what the app got.
async def call(lease, path, size=0, *, chunked=False):
    async with Caller(lease, "POST" if size else "GET", path) as caller:
        await caller.begin(size, chunked=chunked)
        head = await caller.head()
        status = int(head.split()[1])
        assert status in (200, 429), head
        got = re.search(rb"x-got: ([0-9]+)", head, re.I)
        return status, await take(caller.reader, head), int(got[1]) if got else None
"""

LARGE_BODIES = """
import asyncio

import pytest

from traffic import Caller, call, checksum, look, serving

@pytest.mark.parametrize("framing", ["plain", "chunked"])
def test_down(synth_lease, exposed_port, framing):
    async def main():
        async with serving(exposed_port):
            status, came, _ = await call(synth_lease, f"/{framing}/{SIZE}")
        assert (status, came) == (200, checksum(SIZE))
        assert max(look(f"down, {framing}")) < 100

    asyncio.run(main())

@pytest.mark.parametrize("framing", ["plain", "chunked"])
def test_up(synth_lease, exposed_port, framing):
    async def main():
        async with serving(exposed_port):
            status, _, got = await call(synth_lease, "/plain/0", SIZE, chunked=framing == "chunked")
        assert (status, got) == (200, checksum(SIZE)[1])
        assert max(look(f"up, {framing}")) < 100

    asyncio.run(main())

def test_down_to_a_caller_that_does_not_read(synth_lease, exposed_port):
    async def main():
        async with serving(exposed_port), Caller(synth_lease, "GET", f"/plain/{SIZE}") as stalled:
            await stalled.begin()
            await stalled.head()
            stalled.writer.transport.pause_reading()
            status, _, got = await call(synth_lease, "/plain/0", SIZE)
        assert (status, got) == (200, checksum(SIZE)[1])
        assert max(look("up, beside a caller that does not read")) < 100

    asyncio.run(main())
"""

MANY = """
import asyncio, resource

from traffic import MOST_FILES, call, checksum, look, serving

def test_1024_in_flight(synth_lease, exposed_port):
    async def main():
        async with asyncio.timeout(60), serving(exposed_port) as app, asyncio.TaskGroup() as tasks:
            # The keeper runs by now, with the limit as it was.
            resource.setrlimit(resource.RLIMIT_NOFILE, (MOST_FILES, MOST_FILES))
            sizes = [100 + number for number in range(1024)]
            calls = [tasks.create_task(call(synth_lease, f"/wait/{s}", s)) for s in sizes]
            await app.until(1024)
            status, _, _ = await call(synth_lease, "/plain/1")
            assert status == 429
            app.release.set()
            for size, one in zip(sizes, calls, strict=True):
                assert await one == (200, checksum(size), checksum(size)[1])
            status, _, _ = await call(synth_lease, "/plain/1")
            assert status == 200
        look("1024 in flight")

    asyncio.run(main())

def test_many_large_ones_at_once(synth_lease, exposed_port):
    async def main():
        async with asyncio.timeout(60), serving(exposed_port) as app, asyncio.TaskGroup() as tasks:
            calls = [
                tasks.create_task(call(synth_lease, f"/wait/{SIZE}", SIZE)) for _ in range(COUNT)
            ]
            await app.until(COUNT)
            look(f"{COUNT} bodies up")
            app.release.set()
            results = [await one for one in calls]
        expected = checksum(SIZE)
        assert results == [(200, expected, expected[1])] * COUNT
        look(f"{COUNT} bodies down")

    asyncio.run(main())
"""

WEBSOCKETS = """
import asyncio, base64, hashlib, re, struct, zlib
from contextlib import AsyncExitStack

from websockets.frames import apply_mask

from traffic import Caller, blocks, checksum, look

KEY = "dGhlIHNhbXBsZSBub25jZQ=="
UPGRADE = ["Connection: Upgrade", "Upgrade: websocket"]
sent = 0

def accept(head):
    (key,) = re.findall(rb"sec-websocket-key: (.*)\\r", head, re.I)
    digest = hashlib.sha1(key + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest()
    return base64.b64encode(digest).decode()

# Send a message as one frame; a client's mask of zeros changes nothing.
async def send_message(writer, *, client):
    global sent
    writer.write(struct.pack("!BBQ", 0x82, 0xff if client else 0x7f, SIZE) + bytes(4 * client))
    for block in blocks(SIZE):
        writer.write(block)
        await writer.drain()
        sent += len(block)

# Return length and checksum of a message, which may come in fragments.
async def message(reader):
    size = value = 0
    while True:
        first, second = await reader.readexactly(2)
        assert first & 15 in (0, 2), first
        length = second & 127
        if length > 125:
            length = int.from_bytes(await reader.readexactly(2 if length == 126 else 8))
        mask = await reader.readexactly(4) if second & 128 else bytes(4)
        data = apply_mask(await reader.readexactly(length), mask)
        size, value = size + length, zlib.crc32(data, value)
        if first & 128:
            return size, value

# Wait until nothing more is taken.
async def stopped(lease):
    before = -1
    while before != sent:
        before = sent
        for _ in range(20):
            await lease.wait_ready_async(10)

def test_slow_readers(synth_lease, exposed_port):
    read = asyncio.Event()
    came = []

    async def app(reader, writer):
        try:
            head = await reader.readuntil(b"\\r\\n\\r\\n")
            lines = ["HTTP/1.1 101 Yes", *UPGRADE, f"Sec-WebSocket-Accept: {accept(head)}", "", ""]
            writer.write("\\r\\n".join(lines).encode())
            await read.wait()
            came.append(await message(reader))
            await send_message(writer, client=False)
            await reader.read()
        except (EOFError, OSError):
            pass  # it only asked whether somebody listens
        finally:
            writer.close()

    async def main():
        global sent
        async with asyncio.timeout(60), AsyncExitStack() as stack:
            server = await asyncio.start_server(app, "127.0.0.1", exposed_port, backlog=128)
            callers = [Caller(synth_lease, "GET", "/") for _ in range(64)]
            for caller in callers:
                await stack.enter_async_context(caller)
                lines = [*caller.lines, *UPGRADE, f"Sec-WebSocket-Key: {KEY}"]
                lines += ["Sec-WebSocket-Version: 13", "", ""]
                caller.writer.write("\\r\\n".join(lines).encode())
                assert (await caller.head()).startswith(b"HTTP/1.1 101 ")
            sends = [asyncio.create_task(send_message(x.writer, client=True)) for x in callers]
            await stopped(synth_lease)
            assert max(look("64 apps that read slowly")) < 100
            read.set()
            await asyncio.gather(*sends)
            while len(came) < 64:
                await synth_lease.wait_ready_async(10)
            await stopped(synth_lease)
            assert max(look("64 callers that read slowly")) < 100
            answers = await asyncio.gather(*(message(x.reader) for x in callers))
            assert came == answers == [checksum(SIZE)] * 64
            server.close()

    asyncio.run(main())
"""


@pytest.fixture
def backend_process() -> Iterator[BackendProcess]:
    """A backend that no other test has made grow."""
    with running_backend() as backend:
        yield backend


@pytest.fixture(params=["memory", "websocket"])
def _link(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """How relay and agent are linked: within the keeper, or from there to a backend's process."""
    pid = ""
    if request.param == "websocket":
        hosted: CountingBackend = request.getfixturevalue("hosted")
        pid = str(hosted.pid)
    monkeypatch.setenv("BACKEND_PID", pid)


@pytest.mark.usefixtures("_link")
def test_large_bodies(pytester: pytest.Pytester, runtime: RuntimeDirectory) -> None:
    pytester.makepyfile(traffic=TRAFFIC, test_large=f"SIZE = {LARGE_BYTES}\n{LARGE_BODIES}")

    pytester.runpytest_subprocess("--import-mode=prepend", "-s").assert_outcomes(passed=5)
    runtime.assert_nothing_left()


@pytest.mark.usefixtures("_link")
def test_many_at_once(pytester: pytest.Pytester, runtime: RuntimeDirectory) -> None:
    settings = f"SIZE = {AT_ONCE_BYTES}\nCOUNT = {AT_ONCE}\n"
    pytester.makepyfile(traffic=TRAFFIC, test_many=f"{settings}{MANY}")

    pytester.runpytest_subprocess("--import-mode=prepend", "-s").assert_outcomes(passed=2)
    runtime.assert_nothing_left()


@pytest.mark.usefixtures("_link")
def test_slow_websockets(pytester: pytest.Pytester, runtime: RuntimeDirectory) -> None:
    test = f"SIZE = {MESSAGE_BYTES}\n{WEBSOCKETS}"
    pytester.makepyfile(traffic=TRAFFIC, test_slow=test)

    pytester.runpytest_subprocess("--import-mode=prepend", "-s").assert_outcomes(passed=1)
    runtime.assert_nothing_left()

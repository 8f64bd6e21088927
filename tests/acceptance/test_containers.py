"""Callers in a network namespace of their own, as in a container: another loopback interface, and
one wire to this machine.

A test process takes turns with a caller there, which is a Python of its own and speaks HTTP,
server-sent events and WebSocket with the libraries that people use.
"""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = [
    pytest.mark.acceptance,
    pytest.mark.skipif(
        sys.platform != "linux" or os.geteuid() != 0 or not shutil.which("ip"),
        reason="network namespaces need Linux, root and iproute2",
    ),
]

NAME = "caller.test.internal"

CALLER = """
# caller.py: everything that a caller in a container does with a public URL; prints what came.
import asyncio, json, ssl, sys

import httpx
from websockets.asyncio.client import connect  # of one thread, as OpenSSL wants a connection used

url, headers, ca_file = sys.argv[1], json.loads(sys.argv[2]), sys.argv[3]
trust = ssl.create_default_context(cafile=ca_file) if ca_file else None
options = {"trust_env": False, "verify": trust or True, "follow_redirects": True}
with httpx.Client(headers=headers, **options) as client:
    found = client.post(f"{url}/seen?x=1", content=b"body").json()
    found["redirected"] = str(client.get(f"{url}/away").url)
    with client.stream("GET", f"{url}/events") as events:
        lines = events.iter_lines()
        found["first"] = next(lines)
        # The app sends the second one when it has heard that the first is here.
        client.post(f"{url}/heard")
        found["second"] = [line for line in lines if line][0]
    found["without"] = httpx.get(f"{url}/seen", **options).status_code
    at_root = url.split("/")[:3]
    found["at root"] = client.get("/".join([*at_root, "seen"])).status_code
socket_url = url.replace("http", "ws", 1) + "/socket"

async def talk():
    async with connect(socket_url, additional_headers=headers, ssl=trust, proxy=None) as socket:
        await socket.send("ping")
        return await socket.recv()

found["socket"] = asyncio.run(talk())
print(json.dumps(found))
"""

CONFTEST = """
import asyncio, json, os, re, subprocess, sys

import pytest

NAMESPACE = os.environ["CALLERS_NAMESPACE"]
heard = None

async def app(scope, receive, send):
    global heard
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.accept"})
        text = (await receive())["text"]
        await send({"type": "websocket.send", "text": f"{text} {os.getpid()}"})
        await receive()
        return
    path = scope["path"]
    status, headers, body = 200, [], b""
    if path == "/events":
        heard = asyncio.Event()
        headers = [(b"content-type", b"text/event-stream")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"data: 1\\n\\n", "more_body": True})
        await heard.wait()
        await send({"type": "http.response.body", "body": b"data: 2\\n\\n"})
        return
    if path == "/heard":
        heard.set()
    elif path == "/away":
        host = dict(scope["headers"])[b"host"].decode()
        status, headers = 302, [(b"location", f"http://{host}/seen".encode())]
    elif path == "/seen":
        seen = {name.decode(): value.decode() for name, value in scope["headers"]}
        body = json.dumps({"pid": os.getpid(), "headers": seen}).encode()
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})

@pytest.fixture(scope="session", autouse=True)
def served(synth_serve):
    synth_serve(app)

@pytest.fixture
def call():
    def call(lease):
        command = ["ip", "netns", "exec", NAMESPACE, sys.executable, "caller.py"]
        asked = [lease.public_url, json.dumps(dict(lease.headers)), lease.ca_file or ""]
        done = subprocess.run([*command, *asked], capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        found = json.loads(done.stdout)
        assert found["pid"] == os.getpid()
        assert found["headers"]["x-forwarded-for"] == os.environ["CALLERS_ADDRESS"]
        scheme = lease.public_url.split(":")[0]
        assert found["headers"]["x-forwarded-proto"] == scheme
        assert found["headers"]["host"] == lease.public_url.split("/")[2]
        assert found["redirected"] == lease.url("/seen")
        assert (found["first"], found["second"]) == ("data: 1", "data: 2")
        assert found["socket"] == f"ping {os.getpid()}"
        return found
    return call

@pytest.fixture
def listeners(synth_lease):
    # All that the keeper listens on, by addresses.
    def listeners():
        lines = subprocess.check_output(["ss", "-Hltnp"], text=True).splitlines()
        port = synth_lease.public_url.rpartition(":")[2]
        (own,) = [line for line in lines if line.split()[3].endswith(f":{port}")]
        (pid,) = set(re.findall(r"pid=(\\d+)", own))
        found = [line.split()[3] for line in lines if f"pid={pid}," in line]
        return {tuple(each.rsplit(":", 1)) for each in found}
    return listeners
"""

TESTS = """
import os

import httpx
import pytest

@pytest.mark.parametrize("number", range(int(os.environ["CALLERS"])))
def test_a_caller_elsewhere(synth_lease, call, number):
    synth_lease.wait_ready()
    found = call(synth_lease)
    assert (found["without"], found["at root"]) == (401, 200)
    here = httpx.get(
        synth_lease.loopback_url("/seen"),
        headers=synth_lease.headers,
        verify=synth_lease.ssl_context(),
    )
    assert here.json()["headers"]["x-forwarded-for"]

def test_a_caller_without_a_token_needs_a_path(synth_expose, exposed_port, call):
    with synth_expose(exposed_port, require_token=False) as lease:
        assert "/u_" in lease.public_url
        assert "/u_" not in repr(lease)
        found = call(lease)
        assert (found["without"], found["at root"]) == (200, 404)

def test_nothing_else_is_open(synth_lease, listeners, request):
    bound = request.config.getini("synth_tunnels_bind")
    beyond = {address for address, _ in listeners() if address != "127.0.0.1"}
    assert beyond == {"0.0.0.0" if bound == "0.0.0.0" else "BOUND"}
    assert synth_lease.backend.startswith("http://127.0.0.1:")

def test_that_fails_shows_no_secret_path(synth_expose, exposed_port):
    lease = synth_expose(exposed_port, require_token=False)
    assert not lease.public_url, lease.public_url
"""


class Namespace:
    """A network namespace with one wire to this machine."""

    def __init__(self, number: int) -> None:
        self.name = f"synth{number}"
        self.interface = f"sy{number}"
        subnet = f"10.{200 + number // 256 % 50}.{number % 256}"
        self.here, self.there = f"{subnet}.1", f"{subnet}.2"
        self.hosts = Path("/etc/netns") / self.name / "hosts"

    def open(self) -> None:
        name, interface = self.name, self.interface
        for command in (
            f"netns add {name}",
            f"link add {interface} type veth peer name {interface}p netns {name}",
            f"address add {self.here}/30 dev {interface}",
            f"link set {interface} up",
            f"-n {name} address add {self.there}/30 dev {interface}p",
            f"-n {name} link set {interface}p up",
            f"-n {name} link set lo up",
        ):
            subprocess.run(["ip", *command.split()], check=True, capture_output=True, timeout=20)
        # "ip netns exec" shows this file as /etc/hosts.
        self.hosts.parent.mkdir(parents=True)
        self.hosts.write_text(f"127.0.0.1 localhost\n{self.here} {NAME}\n")

    def close(self) -> None:
        shutil.rmtree(self.hosts.parent, ignore_errors=True)
        for command in (f"link del {self.interface}", f"netns del {self.name}"):
            subprocess.run(["ip", *command.split()], check=False, capture_output=True, timeout=20)


@pytest.fixture
def namespace(monkeypatch: pytest.MonkeyPatch) -> Iterator[Namespace]:
    opened = Namespace(os.getpid())
    try:
        try:
            opened.open()
        except (OSError, subprocess.SubprocessError) as error:
            pytest.skip(f"no network namespace can be made here: {error}")
        monkeypatch.setenv("CALLERS_NAMESPACE", opened.name)
        monkeypatch.setenv("CALLERS_ADDRESS", opened.there)
        yield opened
    finally:
        opened.close()


@pytest.mark.parametrize(
    ("by", "arguments"), [("address", []), ("name and https", ["-n", "4", "--synth-tunnels-tls=1"])]
)
def test_callers_in_a_namespace_of_their_own(
    pytester: pytest.Pytester,
    namespace: Namespace,
    monkeypatch: pytest.MonkeyPatch,
    by: str,
    arguments: list[str],
) -> None:
    if by == "address":
        ini, bound, host = f"synth_tunnels_bind = {namespace.interface}", namespace.here, None
    else:
        bound, host = "0.0.0.0", NAME
        ini = f"synth_tunnels_bind = 0.0.0.0\nsynth_tunnels_public_host = {NAME}"
    callers = 1 if by == "address" else 4
    monkeypatch.setenv("CALLERS", str(callers))
    pytester.makeini(f"[pytest]\n{ini}\n")
    pytester.makeconftest(CONFTEST)
    pytester.makepyfile(caller=CALLER, test_it=TESTS.replace("BOUND", bound))

    result = pytester.runpytest_subprocess(*arguments, timeout=120)

    result.assert_outcomes(passed=2 + callers, failed=1)
    output = result.stdout.str()
    scheme = "http" if by == "address" else "https"
    assert f"'{scheme}://{host or bound}:" in output
    assert not re.search(r"/u_[\w-]{8}", output)
    opened = (
        rf"{re.escape(bound)}:\d+( \(and \d more there\))? was open beyond this machine for \d+ s"
    )
    for key in ("the worker token", "the path of its URL"):
        assert re.search(f"{opened}, to callers with {key}", output)

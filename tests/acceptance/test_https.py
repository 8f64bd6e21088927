"""``synth_tunnels_tls``: real callers of a run's https, with the authority that it made."""

import shutil
from pathlib import Path

import pytest

from .conftest import RuntimeDirectory

pytestmark = pytest.mark.acceptance

CONFTEST = """
import json, tempfile
from pathlib import Path

import pytest

@pytest.fixture
def short_folder():
    # Chromium makes sockets in it, whose paths have few bytes.
    with tempfile.TemporaryDirectory(dir="/tmp", ignore_cleanup_errors=True) as folder:
        yield Path(folder)

async def app(scope, receive, send):
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.accept"})
        text = (await receive())["text"]
        await send({"type": "websocket.send", "text": f"{scope['scheme']} {text}"})
        await receive()
        return
    headers = dict(scope["headers"])
    host = headers[b"host"].decode()
    answer, body = [], b"page"
    if scope["path"] == "/login":
        # As an app that does not believe X-Forwarded-Proto.
        answer = [(b"location", f"http://{host}/home".encode())]
        answer += [(b"set-cookie", b"__Host-sid=1; Path=/; Secure; HttpOnly")]
    elif scope["path"] == "/home":
        body = json.dumps({
            "cookie": headers.get(b"cookie", b"").decode(),
            "proto": headers[b"x-forwarded-proto"].decode(),
            "host": host,
        }).encode()
    status = 302 if scope["path"] == "/login" else 200
    await send({"type": "http.response.start", "status": status, "headers": answer})
    await send({"type": "http.response.body", "body": body})

@pytest.fixture(scope="session", autouse=True)
def served(synth_serve):
    synth_serve(app)
"""

TESTS = """
import asyncio, json, os, shutil, ssl, subprocess, sys

import pytest

def run(*command, **environ):
    env = {name: text for name, text in os.environ.items() if "proxy" not in name.lower()}
    done = subprocess.run(command, env=env | environ, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()

def token(lease):
    return ": ".join(*lease.headers.items())

def test_ready(synth_lease):
    assert synth_lease.url("/x").startswith("https://app.test.internal:")
    assert synth_lease.loopback_url("/x").startswith("https://127.0.0.1:")
    synth_lease.wait_ready(20)

def test_httpx_follows_and_keeps_secure_cookies(synth_lease):
    import httpx
    with httpx.Client(verify=synth_lease.ssl_context(), trust_env=False,
                      headers=dict(synth_lease.headers), follow_redirects=True) as client:
        seen = client.get(synth_lease.loopback_url("/login"))
        assert seen.url == synth_lease.loopback_url("/home")
        told = seen.json()
    assert told["cookie"] == "__Host-sid=1"
    assert told["proto"] == "https"
    with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
        httpx.get(synth_lease.loopback_url(), trust_env=False)
    with pytest.raises(httpx.HTTPError):
        httpx.get(synth_lease.loopback_url().replace("https", "http"), trust_env=False)

def test_requests(synth_lease):
    requests = pytest.importorskip("requests")
    session = requests.Session()
    session.trust_env = False
    url, ca_file = synth_lease.loopback_url("/login"), synth_lease.ca_file
    answer = session.get(url, headers=synth_lease.headers, verify=ca_file, timeout=20)
    assert answer.json()["cookie"] == "__Host-sid=1"

def test_websockets(synth_lease):
    # Not its threaded client, which uses a TLS connection in two threads: OpenSSL forbids that.
    from websockets.asyncio.client import connect
    url = synth_lease.loopback_url("/socket").replace("http", "ws", 1)
    options = {"ssl": synth_lease.ssl_context(), "additional_headers": synth_lease.headers}
    async def talk():
        async with connect(url, **options, proxy=None) as socket:
            await socket.send("x" * 300_000)
            return (await socket.recv()).split()
    scheme, echo = asyncio.run(talk())
    assert (scheme, len(echo)) in {("ws", 300_000), ("wss", 300_000)}

@pytest.mark.skipif(not shutil.which("curl"), reason="curl is not installed")
def test_curl_by_the_public_name(synth_lease):
    host, port = synth_lease.public_url.split("//")[1].split(":")
    command = ["curl", "-sS", "--cacert", synth_lease.ca_file, "-H", token(synth_lease)]
    command += ["--resolve", f"{host}:{port}:127.0.0.1"]
    assert run(*command, "-L", "-c", "-", "-o", os.devnull, synth_lease.url("/login"))
    told = json.loads(run(*command, synth_lease.url("/home")))
    assert (told["host"], told["proto"]) == (f"{host}:{port}", "https")

@pytest.mark.skipif(not shutil.which("node"), reason="Node is not installed")
def test_node(synth_lease):
    script = "fetch(process.argv[1], {headers: JSON.parse(process.argv[2])})" \\
        ".then((answer) => answer.text()).then(console.log)"
    headers = json.dumps(dict(synth_lease.headers))
    asked = ["-e", script, synth_lease.loopback_url("/page"), headers]
    assert run("node", *asked, NODE_EXTRA_CA_CERTS=synth_lease.ca_file) == "page"

@pytest.mark.skipif(not (shutil.which("chromium") and shutil.which("certutil")),
                    reason="chromium or certutil is not installed")
def test_chromium(synth_expose, exposed_port, short_folder):
    tmp_path = short_folder
    database = tmp_path / ".pki" / "nssdb"
    database.mkdir(parents=True)
    lease = synth_expose(exposed_port, require_token=False)
    run("certutil", "-d", f"sql:{database}", "-N", "--empty-password")
    run("certutil", "-d", f"sql:{database}", "-A", "-n", "run", "-t", "C,,", "-i", lease.ca_file)
    own = dict.fromkeys(["HOME", "TMPDIR", "XDG_RUNTIME_DIR"], str(tmp_path))
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run",
               "--disable-background-networking", "--no-proxy-server", "--disable-dev-shm-usage",
               f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom"]
    said = run("chromium", *options, lease.loopback_url("/home"), **own)
    assert '"proto": "https"' in said

def test_the_authority_s_file(synth_lease, synth_traffic):
    with open(synth_lease.ca_file) as file:
        text = file.read()
    assert text.startswith("-----BEGIN CERTIFICATE-----")
    folder = os.path.dirname(synth_lease.ca_file)
    keys = [name for name in os.listdir(folder) if name.endswith(".pem")]
    assert keys == ["ca.pem"]
    print("was in", folder)

def test_traffic_names_https(synth_traffic, synth_lease):
    import httpx
    url = synth_traffic.loopback_url("/home")
    httpx.post(url, headers=synth_traffic.headers, verify=synth_lease.ssl_context(),
               trust_env=False)
    request = synth_traffic.wait_for("POST", "/home")
    assert request.headers["x-forwarded-proto"] == "https"
"""


def test_real_callers(pytester: pytest.Pytester, runtime: RuntimeDirectory) -> None:
    pytester.makeini(
        "[pytest]\nsynth_tunnels_tls = true\nsynth_tunnels_public_host = app.test.internal\n"
    )
    pytester.makeconftest(CONFTEST)
    pytester.makepyfile(test_it=TESTS)

    result = pytester.runpytest_subprocess("-rsP")

    outcomes = result.parseoutcomes()
    assert outcomes.get("passed", 0) + outcomes.get("skipped", 0) == 9, result.stdout.str()
    missing = sum(not shutil.which(name) for name in ("curl", "node", "certutil"))
    assert outcomes.get("skipped", 0) <= missing + 1
    (folder,) = [line.split()[-1] for line in result.outlines if line.startswith("was in ")]
    assert not Path(folder).exists()
    runtime.assert_nothing_left()

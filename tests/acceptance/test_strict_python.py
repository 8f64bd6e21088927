"""A run in which every warning is an error, and Python's development mode looks for more: files and
sockets that nobody closes, coroutines that nobody awaits, wrong use of asyncio."""

import sys

import pytest

pytestmark = pytest.mark.acceptance

SUITE = """
import asyncio
from urllib.request import Request, urlopen

import pytest

def wsgi(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [environ["PATH_INFO"].encode()]

async def asgi(scope, receive, send):
    if scope["type"] == "http":
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": scope["path"].encode()})

def ask(url, headers):
    with urlopen(Request(url, headers=headers), timeout=20) as answer:
        return answer.read()

@pytest.mark.parametrize("app", [wsgi, asgi])
def test_served(synth_serve, synth_lease, synth_traffic, app):
    with synth_serve(app):
        synth_lease.wait_ready(timeout_s=20)
        assert ask(synth_lease.url("/a"), synth_lease.headers) == b"/a"
        assert ask(synth_traffic.url("/b"), synth_traffic.headers) == b"/b"
        assert synth_traffic.wait_for("GET", "/b").response.status == 200
        asyncio.run(synth_traffic.assert_none_async("POST"))

def test_inbox(synth_inbox, synth_expose, synth_tunnels):
    ask(synth_inbox.url("/c"), synth_inbox.headers)
    synth_inbox.wait_for("GET", "/c")
    with pytest.raises(AssertionError, match="no request matched"):
        synth_inbox.wait_for("GET", "/never", timeout_s=0.1)
    with synth_expose(9) as lease:
        assert lease.url("/")
    assert synth_tunnels.list_leases() is not None
"""


def test_no_warning_in_any_process(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    # For the keeper, which sees the variables that it is told to.
    monkeypatch.setenv("PYTHONWARNINGS", "error")
    monkeypatch.setenv("PYTHONDEVMODE", "1")
    monkeypatch.setenv("SYNTH_TUNNELS_PASS_ENV", "PYTHONWARNINGS PYTHONDEVMODE")
    pytester.makepyfile(SUITE)

    result = pytester.run(
        sys.executable, "-W", "error", "-X", "dev", "-m", "pytest", "-W", "error", "-n", "1"
    )

    assert result.parseoutcomes() == {"passed": 3}
    assert "Warning" not in result.stdout.str()
    assert result.stderr.str() == ""

"""A test that opens this project's default tunnel and holds it until stdin ends.

Run by a real pytest with ``synth_tunnels_port`` set to the app's port.
"""

import json
import sys
import time
from urllib.error import URLError
from urllib.request import Request, urlopen

import pytest


def first_answer_s(lease, began_s):
    """Return how long it took from ``began_s`` until the app answered through the lease."""
    url, headers = lease.url("/"), lease.headers
    while True:
        try:
            with urlopen(Request(url, headers=headers), timeout=5):
                return time.perf_counter() - began_s
        except URLError:
            if time.perf_counter() - began_s > 20:
                raise
            time.sleep(0.001)


@pytest.fixture(scope="session", autouse=True)
def before():
    """Say when the first fixture was set up: the keeper was started by then, but not waited for."""
    return time.perf_counter()


def test_tunnel_in_use(before, synth_lease):
    """For a test that names the fixture."""
    took_s = first_answer_s(synth_lease, before)
    about = {"url": synth_lease.public_url, "headers": synth_lease.headers, "took_s": took_s}
    print(json.dumps(about), flush=True)
    sys.stdin.read()


def test_tunnel_from_nothing(request):
    """For a test that asks in its middle, so that the keeper has yet to be started."""
    began_s = time.perf_counter()
    lease = request.getfixturevalue("synth_lease")
    print(json.dumps({"took_s": first_answer_s(lease, began_s)}), flush=True)

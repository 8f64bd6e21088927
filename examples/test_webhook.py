"""A payment service calls back into the app under test, which it knows by its public URL alone."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.request import Request, urlopen

import pytest

from pytest_synth_tunnels import Lease

RECEIVED: list[dict[str, object]] = []


class Shop(BaseHTTPRequestHandler):
    """The app under test: notes each payment that it is told of."""

    def do_POST(self) -> None:
        event = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        RECEIVED.append(event)
        answer = json.dumps({"received": event["payment"]}).encode()
        self.send_response(201)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, format: str, *args: object) -> None:
        """Stay quiet."""


@pytest.fixture(scope="session", autouse=True)
def shop(exposed_port: int) -> Iterator[None]:
    server = ThreadingHTTPServer(("127.0.0.1", exposed_port), Shop)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield
    server.shutdown()
    server.server_close()
    thread.join()


def payment_service(callback_url: str, headers: dict[str, str], payment: str) -> dict[str, object]:
    """Stand for the hosted service: it knows a URL and a token."""
    body = json.dumps({"payment": payment}).encode()
    call = Request(callback_url, body, {"Content-Type": "application/json", **headers})
    with urlopen(call, timeout=10) as answer:
        found: dict[str, object] = json.load(answer)
    return found


@pytest.mark.parametrize("payment", ["pay_1", "pay_2"])
def test_the_service_calls_back(synth_lease: Lease, payment: str) -> None:
    answer = payment_service(synth_lease.url("/hooks"), dict(synth_lease.headers), payment)

    assert answer == {"received": payment}
    assert {"payment": payment} in RECEIVED

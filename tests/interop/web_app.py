"""An app with something of everything that web clients ask for."""

import gzip
import json
import queue
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

PAGE = (Path(__file__).parent / "clients" / "page.html").read_bytes()
BLOCK = bytes(65_536)


class App(BaseHTTPRequestHandler):
    """What the clients ask for."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    reports: "queue.Queue[Any]"
    ended: threading.Event
    """Nobody is to be kept waiting any more."""
    left: threading.Event
    """A caller that was kept waiting has gone away."""

    def answer(self) -> None:
        body = self.body()
        name, _, rest = self.path.partition("?")[0].strip("/").partition("/")
        match name:
            case "echo":
                headers = {name.lower(): value for name, value in self.headers.items()}
                told = {
                    "method": self.command,
                    "target": self.path,
                    "headers": headers,
                    "body": body.decode("utf-8", "replace"),
                }
                self.say(json.dumps(told).encode(), "application/json")
            case "bytes":
                self.send_response(200)
                self.send_header("Content-Length", rest)
                self.end_headers()
                if self.command != "HEAD":
                    for start in range(0, int(rest), len(BLOCK)):
                        self.wfile.write(BLOCK[: int(rest) - start])
            case "count":
                self.say(str(len(body)).encode())
            case "gzip":
                content = gzip.compress(b"compressed " * 100)
                self.say(content, "text/plain", ("Content-Encoding", "gzip"))
            case "redirect":
                self.say(b"", "text/plain", ("Location", "/echo?redirected"), status=302)
            case "cookie":
                self.say(b"", "text/plain", ("Set-Cookie", "a=b; Path=/"))
            case "status":
                self.send_response(int(rest))
                self.end_headers()
            case "events":
                self.events()
            case "cut":
                self.send_response(200)
                self.send_header("Transfer-Encoding", "chunked")
                self.end_headers()
                self.wfile.write(b"4\r\npart\r\n")
                self.close_connection = True
            case "hang":
                self.wait_for_the_end()
            case "page":
                self.say(PAGE, "text/html")
            case "style.css":
                self.say(b"body { color: rgb(1, 2, 3) }", "text/css")
            case "report":
                self.reports.put(json.loads(body))
                self.say(b"")
            case _:
                self.say(b"", status=404)

    def say(
        self, body: bytes, kind: str = "text/plain", *headers: tuple[str, str], status: int = 200
    ) -> None:
        self.send_response(status)
        for name, value in (("Content-Type", kind), *headers):
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def events(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for number in range(3):
            event = b"data: %d\n\n" % number
            self.wfile.write(b"%x\r\n%b\r\n" % (len(event), event))
            self.wfile.flush()
        self.wfile.write(b"0\r\n\r\n")

    def wait_for_the_end(self) -> None:
        self.connection.settimeout(0.05)
        while not self.ended.is_set():
            try:
                if not self.connection.recv(1):
                    break
            except TimeoutError:
                continue
            except OSError:
                break
        self.left.set()
        self.close_connection = True

    def body(self) -> bytes:
        if "chunked" not in self.headers.get("transfer-encoding", ""):
            return self.rfile.read(int(self.headers.get("content-length") or 0))
        pieces = []
        while size := int(self.rfile.readline(), 16):
            pieces.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(pieces)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = answer  # noqa: N815  # the base's names

    def log_message(self, *args: object) -> None: ...


class Server(ThreadingHTTPServer):
    request_queue_size = 256
    daemon_threads = True
    block_on_close = False

    def handle_error(self, *args: object) -> None:
        """Callers may leave."""

"""Git over smart HTTP: clone, push a large commit, fetch it elsewhere."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from conftest import serving

pytestmark = pytest.mark.skipif(not shutil.which("git"), reason="git is not installed")

ENVIRONMENT = {
    **{name: value for name, value in os.environ.items() if "proxy" not in name.lower()},
    "GIT_CONFIG_GLOBAL": os.devnull,
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_TERMINAL_PROMPT": "0",
    **{f"GIT_{who}_{what}": "x@y" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")},
}


def git(*arguments: str | Path) -> str:
    done = subprocess.run(
        ["git", *arguments], env=ENVIRONMENT, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def app(exposed_port: int, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    root = tmp_path_factory.mktemp("git")
    git("init", "--quiet", "--bare", "--initial-branch=main", root / "repo.git")
    git("-C", root / "repo.git", "config", "http.receivepack", "true")
    backend = str(Path(git("--exec-path").strip()) / "git-http-backend")

    class Backend(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.git()

        do_POST = do_GET  # noqa: N815

        def git(self) -> None:
            path, _, query = self.path.partition("?")
            length = self.headers.get("Content-Length")
            body = self.rfile.read(int(length)) if length else b"".join(self.chunks())
            environment = ENVIRONMENT | {
                "GIT_PROJECT_ROOT": str(root),
                "GIT_HTTP_EXPORT_ALL": "1",
                "PATH_INFO": path,
                "QUERY_STRING": query,
                "REQUEST_METHOD": self.command,
                "CONTENT_TYPE": self.headers.get("Content-Type", ""),
                "HTTP_CONTENT_ENCODING": self.headers.get("Content-Encoding", ""),
                "CONTENT_LENGTH": str(len(body)),
            }
            done = subprocess.run([backend], env=environment, input=body, capture_output=True)
            head, _, data = done.stdout.partition(b"\r\n\r\n")
            lines = [line.split(": ", 1) for line in head.decode().split("\r\n")]
            status = next((value for name, value in lines if name == "Status"), "200")
            self.send_response(int(status.split()[0]))
            for name, value in lines:
                if name != "Status":
                    self.send_header(name, value)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def chunks(self) -> Iterator[bytes]:
            if self.headers.get("Transfer-Encoding") == "chunked":
                while size := int(self.rfile.readline(), 16):
                    yield self.rfile.read(size)
                    self.rfile.readline()
                self.rfile.readline()

        def log_message(self, format: str, *args: object) -> None:
            """Keep quiet."""

    with serving(ThreadingHTTPServer(("127.0.0.1", exposed_port), Backend)):
        yield root


def test_clone_and_push(url: str, tmp_path: Path) -> None:
    git("clone", "--quiet", f"{url}/repo.git", tmp_path / "one")
    (tmp_path / "one" / "large").write_bytes(os.urandom(3_000_000))
    git("-C", tmp_path / "one", "checkout", "--quiet", "-B", tmp_path.name)
    git("-C", tmp_path / "one", "add", "large")
    git("-C", tmp_path / "one", "commit", "--quiet", "-m", "Large")
    # More than http.postBuffer goes in chunks.
    git("-C", tmp_path / "one", "push", "--quiet", "origin", f"HEAD:{tmp_path.name}")
    git("clone", "--quiet", "--branch", tmp_path.name, f"{url}/repo.git", tmp_path / "two")
    large = [(tmp_path / clone / "large").read_bytes() for clone in ("one", "two")]
    assert large[0] == large[1]

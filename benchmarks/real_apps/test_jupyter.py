"""JupyterLab: its page in Chromium, and a kernel that computes."""

import json
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
from browser import page
from websockets.sync.client import connect

from conftest import running

TOKEN = "t0ken"


@pytest.fixture
def url(url_before_app: str, exposed_port: int, tmp_path: Path) -> Iterator[str]:
    options = {
        "ServerApp.ip": "127.0.0.1",
        "ServerApp.port": exposed_port,
        "ServerApp.base_url": urlsplit(url_before_app).path + "/",
        "IdentityProvider.token": TOKEN,
        "ServerApp.open_browser": False,
        "ServerApp.allow_root": True,
        "ServerApp.port_retries": 0,
        "ServerApp.log_level": "ERROR",
    }
    command = [sys.executable, "-m", "jupyterlab"]
    arguments = [f"--{name}={value}" for name, value in options.items()]
    with running(*command, *arguments, port=exposed_port, cwd=tmp_path):
        yield url_before_app


def test_page_and_kernel(url: str) -> None:
    with page() as opened:
        opened.goto(f"{url}/lab?token={TOKEN}")
        opened.locator("#jp-main-dock-panel").wait_for()
    headers = {"Authorization": f"token {TOKEN}"}
    with httpx.Client(headers=headers, timeout=60, trust_env=False) as client:
        kernel = client.post(f"{url}/api/kernels", json={}).raise_for_status().json()["id"]
        assert six_times_seven(url.replace("http", "ws"), kernel, headers) == "42"
        client.delete(f"{url}/api/kernels/{kernel}").raise_for_status()


def six_times_seven(url: str, kernel: str, headers: dict[str, str]) -> str:
    message = {
        "header": {
            "msg_id": uuid.uuid4().hex,
            "msg_type": "execute_request",
            "session": uuid.uuid4().hex,
            "username": "",
            "version": "5.4",
        },
        "parent_header": {},
        "metadata": {},
        "content": {"code": "6 * 7", "silent": False},
        "channel": "shell",
    }
    channels = f"{url}/api/kernels/{kernel}/channels"
    with connect(channels, additional_headers=headers, proxy=None) as socket:
        socket.send(json.dumps(message))
        while True:
            answer = json.loads(socket.recv(timeout=60))
            if answer["msg_type"] == "execute_result":
                return str(answer["content"]["data"]["text/plain"])

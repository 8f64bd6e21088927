"""JupyterLab: its page in Chromium, and a kernel that computes."""

import json
import uuid
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from browser import page
from websockets.sync.client import connect

from conftest import WAYS, Documented

TOKEN = "t0ken"


@pytest.fixture(params=WAYS)
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    config = {"allow_root": True, "port_retries": 0, "log_level": "ERROR"}
    (tmp_path / "jupyter_server_config.json").write_text(json.dumps({"ServerApp": config}))
    environment = {"JUPYTER_CONFIG_DIR": str(tmp_path), "JUPYTER_TOKEN": TOKEN}
    with Documented("jupyter").running(request, tmp_path, **environment) as url:
        yield url


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

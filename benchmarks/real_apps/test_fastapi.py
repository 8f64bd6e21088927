"""FastAPI: its documentation page, which asks for the schema, and links of its own."""

import re
import socket
import threading
from collections.abc import Awaitable, Callable, Iterator
from typing import Any
from urllib.parse import urljoin

import fastapi
import httpx
import pytest
import uvicorn

web = fastapi.FastAPI()


class Prefixed:
    """ASGI middleware for path style."""

    def __init__(self, app: Callable[..., Awaitable[None]]) -> None:
        self._app = app

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        if scope["type"] != "lifespan":
            prefix = dict(scope["headers"]).get(b"x-forwarded-prefix", b"").decode()
            scope = {**scope, "root_path": prefix, "path": prefix + scope["path"]}
        await self._app(scope, receive, send)


@web.get("/items/{number}")
def item(number: int, request: fastapi.Request) -> dict[str, str]:
    return {"next": str(request.url_for("item", number=number + 1))}


@pytest.fixture(scope="module")
def app(exposed_port: int) -> Iterator[None]:
    server = uvicorn.Server(uvicorn.Config(Prefixed(web), log_level="warning"))
    # Callers that come before the server has started wait for it.
    with socket.create_server(("127.0.0.1", exposed_port)) as listener:
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        yield
        server.should_exit = True
        thread.join()


def test_docs_and_links(url: str) -> None:
    with httpx.Client(timeout=60) as browser:
        page = browser.get(f"{url}/docs")
        schema = re.search(r"url: '([^']+)'", page.text)[1]
        found = browser.get(urljoin(str(page.url), schema)).json()
        assert "/items/{number}" in found["paths"]
        link = browser.get(f"{url}/items/1").json()["next"]
        assert link == f"{url}/items/2"
        assert browser.get(link).json() == {"next": f"{url}/items/3"}

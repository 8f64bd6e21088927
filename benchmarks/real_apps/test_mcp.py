"""MCP: a tool called by its Python client, over streamable HTTP and over the older SSE."""

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest
import uvicorn
from mcp import ClientSession
from mcp.client.sse import sse_client
from mcp.client.streamable_http import streamable_http_client
from mcp.server import MCPServer

server = MCPServer("adder")


@server.tool()
def add(left: int, right: int) -> int:
    """Add two numbers."""
    return left + right


class Prefixed:
    """ASGI middleware for path style: SSE tells the client the path to post to."""

    def __init__(self, app: Callable[..., Awaitable[None]]) -> None:
        self._app = app

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        if scope["type"] != "lifespan":
            prefix = dict(scope["headers"]).get(b"x-forwarded-prefix", b"").decode()
            scope = {**scope, "root_path": prefix, "path": prefix + scope["path"]}
        await self._app(scope, receive, send)


@pytest.fixture(scope="module", params=["streamable_http", "sse"])
def app(request: pytest.FixtureRequest, exposed_port: int) -> Iterator[str]:
    served = server.streamable_http_app() if request.param != "sse" else server.sse_app()
    running = uvicorn.Server(
        uvicorn.Config(Prefixed(served), port=exposed_port, log_level="warning")
    )
    thread = threading.Thread(target=running.run)
    thread.start()
    yield request.param
    running.should_exit = True
    running.force_exit = True
    thread.join()


def test_a_tool(app: str, url: str) -> None:
    async def main() -> None:
        opened = sse_client(f"{url}/sse") if app == "sse" else streamable_http_client(f"{url}/mcp")
        async with opened as streams, ClientSession(*streams[:2]) as session:
            await session.initialize()
            assert [tool.name for tool in (await session.list_tools()).tools] == ["add"]
            result = await session.call_tool("add", {"left": 40, "right": 2})
            assert result.content[0].text == "42"

    asyncio.run(asyncio.wait_for(main(), 60))

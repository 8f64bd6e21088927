"""Agents that are lost, replaced or shut out while requests are in flight, and leases that end."""

import asyncio
import base64
import hashlib
import json
import re
import time

import pytest

from pytest_synth_tunnels.backend import server
from pytest_synth_tunnels.sdk import requests

from ..support.end_to_end import (
    OK,
    App,
    Tunnel,
    both,
    run,
    scripted,
    tunnel,
)

# Outages.


def asking(opened: Tunnel) -> App:
    """An app that keeps each first request for ever, and answers the next ones."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            opened.arrived.put_nowait(head)
            if opened.arrived.qsize() == 1:
                await opened.wait_here(reader)
            writer.write(OK)

    return serve


def test_a_request_survives_the_loss_of_its_agent() -> None:
    async def test() -> None:
        async with tunnel("websocket", asking) as opened:
            caller = await opened.caller()
            caller.send("GET", "/again")
            while opened.arrived.empty():  # noqa: ASYNC110 (the app counts what is there)
                await asyncio.sleep(0)
            opened.cut_link()
            assert await caller.answer() == (200, b"ok")
            heads = [await opened.arrived.get() for _ in range(2)]
            assert [head.split()[:2] for head in heads] == [[b"GET", b"/again"]] * 2
            await opened.left.get()
            assert not await opened.news.get()
            assert await opened.news.get()

    run(test)


def test_what_may_do_harm_is_not_sent_again() -> None:
    async def test() -> None:
        async with tunnel("websocket", asking) as opened:
            caller = await opened.caller()
            caller.send("POST", "/once", "Content-Length: 1", body=b"x")
            while opened.arrived.empty():  # noqa: ASYNC110
                await asyncio.sleep(0)
            opened.cut_link()
            assert await caller.error() == (502, "AGENT_LOST")
            caller.send("POST", "/other", "Content-Length: 0")
            assert await caller.answer() == (200, b"ok")
            assert opened.arrived.qsize() == 2

    run(test)


def test_a_rotated_agent_token_cuts_off_the_agent_that_has_the_old_one() -> None:
    async def test() -> None:
        async with tunnel("websocket", scripted(OK)) as opened:
            path = f"/api/v1/synthtunnel/leases/{opened.lease['lease_id']}/agent-token:refresh"
            connection = await opened.caller()
            key = opened.backend.api_key
            connection.writer.write(
                f"POST {path} HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {key}\r\n\r\n".encode()
            )
            _, body = await connection.answer()
            assert not await opened.news.get()
            caller = await opened.caller()
            caller.send()
            fresh = json.loads(body)["agent_connect"]
            assert opened.dialer is not None
            opened.dialer.update(fresh["url"], fresh["agent_token"])
            assert await caller.answer() == (200, b"ok")

    run(test)


class Live:
    """A request that waits, an answer on its way and an open WebSocket, through one tunnel."""

    def __init__(self, opened: Tunnel) -> None:
        self._opened = opened

    @staticmethod
    def app(opened: Tunnel) -> App:
        """An app that keeps the first of each, and answers the next one that waits."""
        waited = False

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal waited
            head = await reader.readuntil(b"\r\n\r\n")
            opened.arrived.put_nowait(head)
            if b"/answering" in head:
                writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n")
            elif b"/websocket" in head:
                writer.write(_switching(head))
                await reader.read(65_536)
                opened.left.put_nowait(None)
                return
            elif waited:
                writer.write(OK)
            else:
                waited = True
            await opened.wait_here(reader)

        return serve

    async def begin(self) -> None:
        opened = self._opened
        self.waiting, self.answering = await opened.caller(), await opened.caller()
        self.websocket = await opened.caller()
        self.waiting.send()
        self.answering.send("GET", "/answering")
        self.websocket.send(
            "GET",
            "/websocket",
            *("Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13"),
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
        )
        for _ in range(3):
            await opened.arrived.get()
        await self.answering.reader.readuntil(b"x\r\n")
        assert (await self.websocket.head()).startswith(b"HTTP/1.1 101 ")

    async def close_code(self) -> int:
        """Return the code with which the WebSocket is closed."""
        frame = await self.websocket.reader.readexactly(4)
        assert frame[0] == 0x88
        return int.from_bytes(frame[2:])


def _switching(head: bytes) -> bytes:
    """Return an app's answer to an upgrade."""
    found = re.search(rb"(?i)sec-websocket-key: (\S+)", head)
    assert found is not None
    digest = hashlib.sha1(found[1] + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest()  # noqa: S324
    return (
        b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        b"Sec-WebSocket-Accept: " + base64.b64encode(digest) + b"\r\n\r\n"
    )


def test_a_rotated_agent_token_moves_what_can_be_moved_and_ends_the_rest() -> None:
    async def test() -> None:
        async with tunnel("websocket", Live.app) as opened:
            live = Live(opened)
            await live.begin()
            path = f"/api/v1/synthtunnel/leases/{opened.lease['lease_id']}/agent-token:refresh"
            fresh = opened.backend.call(requests.Request("POST", path))["agent_connect"]
            assert not await opened.news.get()
            assert await live.close_code() == 1012
            assert await live.answering.reader.read() == b""
            # The old agent has let go of all three.
            for _ in range(3):
                await opened.left.get()
            assert opened.dialer is not None
            opened.dialer.update(fresh["url"], fresh["agent_token"])
            assert await live.waiting.answer() == (200, b"ok")

    run(test)


@both
def test_a_lease_that_expires_ends_what_is_under_way(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "_SWEEP_S", 0.02)

    async def test() -> None:
        moment = time.time()
        async with tunnel(kind, Live.app, now=lambda: moment) as opened:
            live = Live(opened)
            await live.begin()
            moment += 100_000
            assert await live.waiting.error() == (410, "TUNNEL_LEASE_EXPIRED")
            assert await live.close_code() == 1001
            assert await live.answering.reader.read() == b""
            for _ in range(3):
                await opened.left.get()
            status = opened.backend.call(requests.get_synth_lease(opened.lease["lease_id"]))
            assert (status["status"], status["inflight"]) == ("EXPIRED", 0)

    run(test)

"""A hosted backend of another make: leases and a relay that know the published protocol alone.

It shares no code with the project, and none of the extensions of docs/reference/protocol.md: an
agent meets here what it meets at a relay that was never written for it. It runs as a program, and
prints its URL as JSON once it listens; ``SYNTH_API_KEY`` is the key that it takes.
"""

import asyncio
import base64
import json
import os
import socket
import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

import uvicorn
from fastapi import FastAPI, HTTPException, Request, WebSocket, WebSocketDisconnect
from fastapi.responses import JSONResponse, Response

HOP_BY_HOP = ("connection", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade")
CHUNK_BYTES = 65_536
TIMEOUT_S = 30.0
TOKEN_HEADER = "x-synthtunnel-worker-token"

app = FastAPI()
origin = ""
leases: dict[str, dict[str, Any]] = {}
agents: dict[str, WebSocket] = {}
"""The agent of each lease that has one."""
in_flight: dict[str, asyncio.Queue[dict[str, Any]]] = {}
"""What the agent has said of each request."""


def check_key(request: Request) -> None:
    if request.headers.get("authorization") != f"Bearer {os.environ['SYNTH_API_KEY']}":
        raise HTTPException(401, "unauthorized")


def lease_of(lease_id: str) -> dict[str, Any]:
    if lease_id not in leases:
        raise HTTPException(404, "no such lease")
    return leases[lease_id]


def status_of(lease: dict[str, Any]) -> dict[str, Any]:
    lease_id = lease["lease_id"]
    state = "EXPIRED" if lease["closed"] else "ACTIVE" if lease_id in agents else "PENDING"
    return {
        "lease_id": lease_id,
        "status": state,
        "last_seen_at": None,
        "connected": lease_id in agents,
        "inflight": 0,
        "expires_at": lease["expires_at"],
    }


@app.post("/api/v1/synthtunnel/leases", status_code=201)
async def create(request: Request) -> dict[str, Any]:
    check_key(request)
    asked = await request.json()
    lease_id, route = f"lease_{uuid.uuid4().hex}", f"rt_{uuid.uuid4().hex}"
    expires_at = datetime.now(UTC) + timedelta(seconds=asked["requested_ttl_seconds"])
    lease = {
        "lease_id": lease_id,
        "status": "PENDING",
        "route_token": route,
        "client_instance_id": asked["client_instance_id"],
        "public_base_url": origin,
        "public_url": f"{origin}/s/{route}",
        "agent_connect": {
            "transport": "ws",
            "url": f"{origin.replace('http', 'ws', 1)}/agent",
            "agent_token": uuid.uuid4().hex,
        },
        "worker_token": uuid.uuid4().hex,
        "expires_at": expires_at.isoformat(),
        "limits": {"max_inflight": 128},
        "heartbeat": {"required": False, "recommended_interval_seconds": 25},
        "local_target": asked["local_target"],
        "metadata": {},
        "capabilities": {},
        "closed": False,
    }
    leases[lease_id] = lease
    return lease


@app.get("/api/v1/synthtunnel/leases/{lease_id}")
async def get(lease_id: str, request: Request) -> dict[str, Any]:
    check_key(request)
    return status_of(lease_of(lease_id))


@app.delete("/api/v1/synthtunnel/leases/{lease_id}")
async def close(lease_id: str, request: Request) -> dict[str, Any]:
    check_key(request)
    lease = lease_of(lease_id)
    lease["closed"] = True
    agents.pop(lease_id, None)
    return status_of(lease)


@app.websocket("/agent")
async def agent(websocket: WebSocket) -> None:
    token = websocket.headers.get("authorization", "").removeprefix("Bearer ")
    of_token = {lease["lease_id"] for lease in leases.values() if token == agent_token(lease)}
    if not of_token:
        await websocket.close(1008)
        return
    await websocket.accept()
    attach = json.loads(await websocket.receive_text())
    accepted = [one["lease_id"] for one in attach["leases"] if one["lease_id"] in of_token]
    agents.update(dict.fromkeys(accepted, websocket))
    answer = {"agent_id": attach.get("agent_id") or "agent", "accepted_leases": accepted}
    await websocket.send_text(json.dumps({"type": "ATTACH_ACK", **answer}))
    try:
        while True:
            frame = json.loads(await websocket.receive_text())
            if (heard := in_flight.get(frame.get("rid", ""))) is not None:
                heard.put_nowait(frame)
    except WebSocketDisconnect:
        for lease_id in accepted:
            if agents.get(lease_id) is websocket:
                del agents[lease_id]


def agent_token(lease: dict[str, Any]) -> str:
    return str(lease["agent_connect"]["agent_token"])


@app.api_route("/s/{rest:path}", methods=["GET", "POST", "PUT", "PATCH", "DELETE", "HEAD"])
async def ingress(request: Request) -> Response:
    _, _, route, *path = request.scope["raw_path"].decode("ascii").split("/")
    lease = next((lease for lease in leases.values() if lease["route_token"] == route), None)
    if lease is None or lease["closed"]:
        return refusal(404, "TUNNEL_LEASE_EXPIRED")
    token = lease["worker_token"]
    own = request.headers.get(TOKEN_HEADER) == token
    if not (own or request.headers.get("authorization") == f"Bearer {token}"):
        return refusal(401, "TUNNEL_AUTH_INVALID")
    websocket = agents.get(lease["lease_id"])
    if websocket is None:
        return refusal(503, "AGENT_OFFLINE")
    dropped = {*HOP_BY_HOP, TOKEN_HEADER, *(() if own else ("authorization",))}
    named = {"lease_id": lease["lease_id"], "rid": uuid.uuid4().hex}
    heard = in_flight[named["rid"]] = asyncio.Queue()
    try:
        await send(
            websocket,
            {
                "type": "REQ_HEADERS",
                **named,
                "method": request.method,
                "path": "/" + "/".join(path),
                "query": request.scope["query_string"].decode("latin-1"),
                "headers": [
                    [name.decode("latin-1"), value.decode("latin-1")]
                    for name, value in request.headers.raw
                    if name.decode("latin-1").lower() not in dropped
                ],
                "deadline_ms": int(TIMEOUT_S * 1000),
            },
        )
        body = await request.body()
        for start in range(0, len(body), CHUNK_BYTES):
            chunk = base64.b64encode(body[start : start + CHUNK_BYTES]).decode()
            await send(websocket, {"type": "REQ_BODY", **named, "chunk_b64": chunk})
        await send(websocket, {"type": "REQ_END", **named})
        async with asyncio.timeout(TIMEOUT_S):
            return await answer_of(heard)
    finally:
        del in_flight[named["rid"]]


async def send(websocket: WebSocket, frame: dict[str, Any]) -> None:
    await websocket.send_text(json.dumps(frame))


async def answer_of(heard: "asyncio.Queue[dict[str, Any]]") -> Response:
    """Collect an answer."""
    head: dict[str, Any] = {}
    body = b""
    while True:
        frame = await heard.get()
        match frame["type"]:
            case "RESP_HEADERS":
                head = frame
            case "RESP_BODY":
                body += base64.b64decode(frame["chunk_b64"])
            case "RESP_ERROR":
                return refusal(502, frame["code"])
            case "RESP_END":
                response = Response(body, head["status"])
                for name, value in head["headers"]:
                    if name.lower() not in {*HOP_BY_HOP, "content-length"}:
                        response.headers.append(name, value)
                return response


def refusal(status: int, code: str) -> Response:
    return JSONResponse({"code": code, "detail": code, "message": code}, status)


def main() -> None:
    global origin
    with socket.create_server(("127.0.0.1", 0)) as listener:
        origin = f"http://127.0.0.1:{listener.getsockname()[1]}"
        print(json.dumps({"backend_url": origin}), flush=True)
        uvicorn.Server(uvicorn.Config(app, log_level="warning")).run(sockets=[listener])


if __name__ == "__main__":
    main()

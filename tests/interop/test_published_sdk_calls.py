"""The published client (synth-ai 0.16.1) makes all its calls against the embedded backend."""

import json
import subprocess
from collections import defaultdict
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.interop

SCRIPT = Path(__file__).parent / "clients" / "published_sdk.py"

Answers = dict[str, list[Any]]

TUNNEL = {"id", "provider", "status", "subdomain", "local_host", "local_port", "public_url"}
LEASE = {
    "lease_id",
    "status",
    "client_instance_id",
    "local_host",
    "local_port",
    "provider_preference",
    "requested_ttl_seconds",
    "reuse_connector",
    "app_name",
    "idempotency_key",
    "public_url",
}
CONNECTOR = {
    "managed_tunnel_id",
    "hostname",
    "route_prefix",
    "tunnel_token",
    "expires_at",
    "access_client_id",
    "access_client_secret",
    "gateway_port",
    "diagnostics_hint",
}
SYNTH = {
    "lease_id",
    "status",
    "route_token",
    "client_instance_id",
    "public_base_url",
    "public_url",
    "agent_connect",
    "worker_token",
    "expires_at",
    "limits",
    "heartbeat",
    "local_target",
    "metadata",
    "capabilities",
}
STATUS = {"lease_id", "status", "last_seen_at", "connected", "inflight", "expires_at"}


@pytest.fixture(scope="module", params=["sync", "async"])
def answers(
    request: pytest.FixtureRequest, standalone_backend: dict[str, str], synth_ai_python: Path
) -> Answers:
    """What the client was answered, by method, in order."""
    done = subprocess.run(
        [
            synth_ai_python,
            "-I",
            SCRIPT,
            request.param,
            standalone_backend["backend_url"],
            standalone_backend["api_key"],
        ],
        stdout=subprocess.PIPE,
        check=True,
        timeout=60,
    )
    found: Answers = defaultdict(list)
    for name, answer in json.loads(done.stdout):
        found[name].append(answer)
    return found


def test_every_call_is_answered(answers: Answers) -> None:
    assert len(answers) == 15


def test_health(answers: Answers) -> None:
    assert answers["health"] == [
        {"status": "ok", "providers": ["ngrok", "cloudflared", "synthtunnel"]}
    ]


def test_tunnels(answers: Answers, standalone_backend: dict[str, str]) -> None:
    tunnel, conflict = answers["create"]
    assert tunnel.keys() >= TUNNEL
    assert tunnel["status"] == "active"
    assert tunnel["public_url"].startswith(standalone_backend["public_base_url"])
    assert conflict["error"] == 409
    (rotated,) = answers["rotate"]
    assert (rotated["status"], rotated["local_port"], rotated["reason"]) == (
        "rotated",
        9000,
        "moved",
    )
    assert rotated["public_url"] == tunnel["public_url"]
    live, deleted = answers["list"]
    assert tunnel["id"] in [each["id"] for each in live]
    assert answers["delete"][0]["status"] == "deleted"
    assert {each["status"] for each in deleted} == {"deleted"}


def test_managed_leases(answers: Answers) -> None:
    lease, same = answers["create_lease"]
    assert lease.keys() >= LEASE | CONNECTOR
    assert lease == same
    assert datetime.fromisoformat(lease["expires_at"]).tzinfo is not None
    beat, late = answers["heartbeat"]
    assert beat.keys() >= LEASE
    assert (beat["status"], beat["action"], beat["next_heartbeat_seconds"]) == (
        "heartbeat_ok",
        "none",
        30,
    )
    assert (late["error"], "lease_expired" in late["detail"]) == (410, True)
    (refreshed,) = answers["refresh_lease"]
    assert (refreshed["status"], refreshed["requested_ttl_seconds"]) == ("refreshed", 7200)
    assert refreshed["expires_at"] > lease["expires_at"]
    assert answers["release_lease"][0]["status"] == "released"
    deleted, unknown = answers["delete_lease"]
    assert (deleted["status"], unknown["error"]) == ("deleted", 404)
    for answer in (refreshed, answers["release_lease"][0], deleted):
        assert answer["lease_id"] == lease["lease_id"]


def test_lists_of_leases_hold_no_tokens(answers: Answers) -> None:
    lease = answers["create_lease"][0]
    live, ended = answers["list_leases"]
    assert [each["status"] for each in live if each["lease_id"] == lease["lease_id"]] == ["active"]
    assert "released" in [each["status"] for each in ended]
    for each in live + ended:
        assert each.keys() >= LEASE
        assert not any("token" in name or "secret" in name for name in each)
    assert lease["tunnel_token"] not in json.dumps(live + ended)


def test_synth_leases(answers: Answers, standalone_backend: dict[str, str]) -> None:
    lease, invalid = answers["create_synth_lease"]
    assert lease.keys() >= SYNTH
    assert lease["status"] == "PENDING"
    assert lease["route_token"].startswith("rt_")
    assert lease["public_url"] == f"{lease['public_base_url']}/s/{lease['route_token']}"
    assert lease["public_base_url"] == standalone_backend["public_base_url"]
    assert lease["agent_connect"].keys() == {"transport", "url", "agent_token"}
    assert lease["agent_connect"]["transport"] == "ws"
    assert lease["limits"]["max_inflight"] == 300
    assert lease["heartbeat"] == {"required": False, "recommended_interval_seconds": 25}
    assert (invalid["error"], invalid["code"]) == (422, "validation_error")
    (pending,) = answers["get_synth_lease"]
    assert pending.keys() >= STATUS
    assert (pending["status"], pending["connected"], pending["inflight"]) == ("PENDING", False, 0)
    (fresh,) = answers["refresh_synth_worker_token"]
    assert fresh["lease_id"] == lease["lease_id"]
    assert fresh["worker_token"] not in ("", lease["worker_token"])
    (closed,) = answers["close_synth_lease"]
    assert closed.keys() >= STATUS
    assert closed["status"] == "EXPIRED"

"""Every call's method, path, query and body."""

import enum
import subprocess
import sys

import pytest

from pytest_synth_tunnels.sdk import requests
from pytest_synth_tunnels.sdk.models import TunnelProvider
from pytest_synth_tunnels.sdk.requests import Request, Retry

TARGET = {"client_instance_id": "client-1", "local_host": "127.0.0.1", "local_port": 80}


@pytest.mark.parametrize(
    ("request_", "method", "path", "body"),
    [
        (requests.health(), "GET", "/v1/tunnels/health", None),
        (requests.list_tunnels(), "GET", "/v1/tunnels/", None),
        (
            requests.create_tunnel(subdomain="s", local_port=80),
            "POST",
            "/v1/tunnels/",
            {"subdomain": "s", "local_port": 80, "local_host": "127.0.0.1"},
        ),
        (requests.delete_tunnel("t1"), "DELETE", "/v1/tunnels/t1", None),
        (
            requests.rotate_tunnel(),
            "POST",
            "/v1/tunnels/rotate",
            {"local_port": 8000, "local_host": "127.0.0.1"},
        ),
        (
            requests.create_lease(**TARGET),
            "POST",
            "/v1/tunnels/lease",
            {
                **TARGET,
                "provider_preference": "ngrok",
                "requested_ttl_seconds": 3600,
                "reuse_connector": True,
            },
        ),
        (
            requests.heartbeat("l1"),
            "POST",
            "/v1/tunnels/lease/l1/heartbeat",
            {
                "connected_to_edge": False,
                "gateway_ready": False,
                "local_ready": False,
                "last_error": None,
            },
        ),
        (requests.release_lease("l1"), "POST", "/v1/tunnels/lease/l1/release", None),
        (
            requests.refresh_lease("l1"),
            "POST",
            "/v1/tunnels/lease/l1/refresh",
            {"requested_ttl_seconds": 3600},
        ),
        (requests.delete_lease("l1"), "DELETE", "/v1/tunnels/lease/l1", None),
        (requests.list_leases(), "GET", "/v1/tunnels/lease", None),
        (
            requests.create_synth_lease(**TARGET),
            "POST",
            "/api/v1/synthtunnel/leases",
            {
                "client_instance_id": "client-1",
                "local_target": {"host": "127.0.0.1", "port": 80},
                "requested_ttl_seconds": 3600,
                "metadata": {},
                "capabilities": {},
            },
        ),
        (requests.get_synth_lease("l1"), "GET", "/api/v1/synthtunnel/leases/l1", None),
        (requests.close_synth_lease("l1"), "DELETE", "/api/v1/synthtunnel/leases/l1", None),
        (
            requests.refresh_synth_worker_token("l1"),
            "POST",
            "/api/v1/synthtunnel/leases/l1/token:refresh",
            None,
        ),
    ],
    ids=lambda value: str(value) if isinstance(value, Request) else "",
)
def test_default_arguments(
    request_: Request, method: str, path: str, body: dict[str, object] | None
) -> None:
    assert (request_.method, request_.path, request_.body) == (method, path, body)
    assert request_.params == {}


def test_a_query_has_only_what_was_asked_for() -> None:
    listed = requests.list_tunnels(status_filter="", include_deleted=True)
    assert listed.params == {"status_filter": "", "include_deleted": True}
    leases = requests.list_leases(client_instance_id="c", include_expired=False)
    assert leases.params == {"client_instance_id": "c"}
    assert requests.list_leases(include_expired=True).params == {"include_expired": True}


def test_optional_texts_are_sent_only_if_they_say_something() -> None:
    assert "reason" not in (requests.rotate_tunnel(reason="").body or {})
    assert (requests.rotate_tunnel(reason="r").body or {})["reason"] == "r"
    body = requests.create_lease(**TARGET, app_name="", idempotency_key="").body or {}
    assert not {"app_name", "idempotency_key"} & body.keys()
    body = requests.create_lease(**TARGET, app_name="a", idempotency_key="k").body or {}
    assert (body["app_name"], body["idempotency_key"]) == ("a", "k")


class Foreign(enum.Enum):
    NGROK = "ngrok"


@pytest.mark.parametrize("provider", [TunnelProvider.NGROK, "ngrok", Foreign.NGROK])
def test_a_provider_is_sent_as_its_name(provider: TunnelProvider | str) -> None:
    body = requests.create_lease(**TARGET, provider_preference=provider).body or {}
    assert type(body["provider_preference"]) is str
    assert body["provider_preference"] == "ngrok"


def test_only_calls_that_may_happen_twice_are_sent_again() -> None:
    assert requests.create_synth_lease(**TARGET).retry is Retry.NEVER
    assert requests.create_tunnel(subdomain="s", local_port=1).retry is Retry.NEVER
    assert requests.rotate_tunnel().retry is Retry.NEVER
    assert requests.refresh_synth_worker_token("l").retry is Retry.NEVER
    assert requests.create_lease(**TARGET).retry is Retry.NEVER
    assert requests.create_lease(**TARGET, idempotency_key="k").retry is Retry.KEYED
    assert requests.close_synth_lease("l").retry is Retry.IDEMPOTENT


def test_calls_and_errors_need_no_http_client() -> None:
    program = (
        "import sys; from pytest_synth_tunnels.sdk import TunnelError, TunnelProvider, requests;"
        "print({'httpx', 'pytest', 'asyncio'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.strip() == "set()"

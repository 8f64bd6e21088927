"""Bodies of the control plane: what validates, and how it is told what does not."""

import json
from typing import Any

import pytest

from pytest_synth_tunnels.backend.common import RefusedError
from pytest_synth_tunnels.backend.schemas import CreateLease, CreateSynthLease, CreateTunnel, read

LEASE = {"client_instance_id": "client-1", "local_host": "127.0.0.1", "local_port": 8000}
SYNTH = {"client_instance_id": "client-1", "local_target": {"host": "::1", "port": 1}}


def refused(body: bytes | dict[str, Any], kind: Any) -> RefusedError:
    with pytest.raises(RefusedError) as caught:
        read(body if isinstance(body, bytes) else json.dumps(body).encode(), kind)
    return caught.value


def test_a_body_has_defaults_and_may_say_more() -> None:
    request = read(json.dumps(LEASE | {"unknown": [1]}).encode(), CreateLease).request()
    assert (request.provider_preference, request.requested_ttl_seconds) == ("ngrok", 3600)
    assert (request.reuse_connector, request.idempotency_key) == (True, None)


def test_a_synth_lease_keeps_what_it_is_told() -> None:
    metadata = {"require_token": False, "name": "mine"}
    body = json.dumps(SYNTH | {"metadata": metadata, "capabilities": {"max_inflight": 7}})
    request = read(body.encode(), CreateSynthLease).request()
    assert (request.local_host, request.local_port, request.metadata) == ("::1", 1, metadata)
    assert request.capabilities == {"max_inflight": 7}


@pytest.mark.parametrize(
    ("body", "kind", "message"),
    [
        (LEASE | {"local_port": 0}, CreateLease, "local_port must be an integer from 1 to 65535"),
        (LEASE | {"client_instance_id": " "}, CreateLease, "client_instance_id must be 1 to 255"),
        (LEASE | {"provider_preference": "x"}, CreateLease, "'ngrok' or 'cloudflared'"),
        (SYNTH | {"metadata": {"require_token": 1}}, CreateSynthLease, "require_token must be"),
        (SYNTH | {"capabilities": {"max_inflight": 0}}, CreateSynthLease, "max_inflight must be"),
        ({"subdomain": "-a", "local_port": 1}, CreateTunnel, "subdomain must be 1 to 63 letters"),
        ({"local_port": 1}, CreateTunnel, "the body does not validate: "),
    ],
)
def test_a_wrong_field_is_named_in_words(body: dict[str, Any], kind: Any, message: str) -> None:
    error = refused(body, kind)
    assert (error.status, error.code) == (422, "validation_error")
    assert message in error.message


@pytest.mark.parametrize("body", [b"", b"{", b"\xff", b'{"unknown": ' + b"[" * 100_000])
def test_what_is_no_json_is_a_bad_request(body: bytes) -> None:
    assert refused(body, CreateTunnel).status == 400

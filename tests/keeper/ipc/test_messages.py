import json
import re
from typing import Any

import pytest

from pytest_synth_tunnels.keeper.ipc import messages
from pytest_synth_tunnels.keeper.ipc.messages import (
    Event,
    LeaseInfo,
    Message,
    decode,
    encode,
    proof,
)

from ...support.messages import expose

INFO = LeaseInfo(
    lease_id="lease_1",
    public_url="http://127.0.0.1:1/s/rt_1/~gw0",
    loopback_url="",
    ca_file="",
    url_secret="",
    worker_token="wt_secret",
    headers={},
    local_host="127.0.0.1",
    local_port=8000,
    expires_at="2030-01-01T00:00:00Z",
    provider="synthtunnel",
    backend="http://127.0.0.1:1",
)


def test_a_message_survives_the_way() -> None:
    line = encode(INFO)

    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    assert decode(line) == INFO


def test_no_message_shows_its_values() -> None:
    assert "secret" not in repr(INFO)


def test_every_public_message_is_known_on_the_wire() -> None:
    kinds = [
        value for name in messages.__all__ if isinstance(value := getattr(messages, name), type)
    ]

    assert {kind.__name__ for kind in kinds if kind is not Message} == set(Message.types)


@pytest.mark.parametrize(
    "line",
    [
        b"\n",
        b"[]\n",
        b'"Done"\n',
        b'{"type": "Nothing"}\n',
        b'{"type": ["Done"]}\n',
        b'{"type": "Event", "kind": "lost"}\n',
        b'{"type": "Done", "more": 1}\n',
        b"\xff\n",
        b"[" * 100_000,
        b'{"type": "CloseLease", "lease_id": ["x"]}\n',
        b'{"type": "WaitReady", "lease_id": "x", "timeout_s": NaN}\n',
        b'{"type": "WaitReady", "lease_id": "x", "timeout_s": 1e999}\n',
        b'{"type": "WaitReady", "lease_id": "x", "timeout_s": null}\n',
    ],
)
def test_what_is_no_message_is_refused(line: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - JSON and Unicode errors are ValueErrors too
        decode(line)


HELLO = {"proof": "p", "nonce": "n", "pid": 1, "address": "", "wants_events": False}


@pytest.mark.parametrize(
    ("kind", "fields", "message"),
    [
        ("Hello", HELLO | {"proof": 1}, "Hello: field 'proof' must be str, got int"),
        ("Hello", HELLO | {"pid": True}, "Hello: field 'pid' must be int, got bool"),
        ("Hello", HELLO | {"pid": 1.0}, "Hello: field 'pid' must be int, got float"),
        ("Hello", HELLO | {"pid": "1"}, "Hello: field 'pid' must be int, got str"),
        ("Hello", HELLO | {"wants_events": 1}, "Hello: field 'wants_events' must be bool, got int"),
        ("Hello", HELLO | {"more": 1, "most": 2}, "Hello: unknown field more, most"),
        ("CloseLease", {}, "CloseLease: missing field lease_id"),
        ("CloseLease", {"id": 1}, "CloseLease: missing field lease_id; unknown field id"),
        (
            "WaitReady",
            {"lease_id": "x", "timeout_s": "soon"},
            "WaitReady: field 'timeout_s' must be a number below 1e+15, got str",
        ),
        (
            "Expose",
            dict.fromkeys(messages.Expose.fields) | {"target": "t", "provider": 1},
            "Expose: field 'provider' must be str or None, got int",
        ),
        (
            "LeaseEvents",
            {"lease_events": {}},
            "LeaseEvents: field 'lease_events' must be list, got dict",
        ),
    ],
)
def test_an_error_names_the_field_and_the_types(
    kind: str, fields: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        decode(json.dumps({"type": kind, **fields}).encode())


def test_a_field_takes_what_its_type_says() -> None:
    for ttl_s in (None, 60, 60.5):
        expected = expose("t", name="n", require_token=True, ttl_s=ttl_s)
        assert decode(encode(expected)) == expected


def test_a_message_must_be_complete() -> None:
    with pytest.raises(TypeError, match="lease_id"):
        Event(kind="lost", message="gone")  # type: ignore[call-arg]


def test_a_proof_is_of_one_role_over_one_nonce() -> None:
    proofs = {proof(s, r, n) for s in "ab" for r in ("keeper", "process") for n in "12"}

    assert len(proofs) == 8

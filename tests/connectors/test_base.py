import pytest

from pytest_synth_tunnels.connectors.base import Assignment, ConnectorError

LEASE = {
    "lease_id": "lease_1",
    "tunnel_token": "tt_long_and_secret",
    "access_client_secret": None,
    "gateway_port": 8016,
}
ENVIRON = {
    "PATH": "/usr/bin",
    "NGROK_AUTHTOKEN": "ng_secret",
    "HTTPS_PROXY": "http://me:pass%20word@proxy:3128",
    "all_proxy": "http://[",
    "API_KEY": "short",
}


def test_an_assignment_keeps_its_secrets() -> None:
    assignment = Assignment("http://127.0.0.1:8016", LEASE, ENVIRON, "/bin/cloudflared")

    assert assignment.secrets() == ["tt_long_and_secret", "pass%20word", "ng_secret"]
    text = repr(assignment)
    assert "http://127.0.0.1:8016" in text
    assert "secret" not in text
    assert "word" not in text


def test_what_a_lease_must_have() -> None:
    assignment = Assignment("http://127.0.0.1:8016", LEASE)

    assert assignment.need("tunnel_token") == "tt_long_and_secret"
    for name in ("edge_url", "access_client_secret", "gateway_port"):
        with pytest.raises(ConnectorError, match=f"lease has no {name}") as caught:
            assignment.need(name)
        assert "synth_tunnels_provider" in caught.value.hint


def test_an_error_for_people() -> None:
    error = ConnectorError("it failed.", "Do something")

    assert str(error) == "it failed. Do something"
    assert (error.message, error.hint) == ("it failed.", "Do something")
    assert str(ConnectorError("it failed")) == "it failed"

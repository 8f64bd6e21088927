"""The SDK's few types."""

import copy
import pickle

from pytest_synth_tunnels.sdk.models import Secret, TunnelProvider


def test_a_provider_is_its_name() -> None:
    assert TunnelProvider("ngrok") is TunnelProvider.NGROK
    assert TunnelProvider.CLOUDFLARED == "cloudflared"
    assert [provider.value for provider in TunnelProvider] == ["cloudflared", "ngrok"]


def test_a_secret_works_as_a_string_and_does_not_show() -> None:
    secret = Secret("sk-1")
    assert secret == "sk-1"
    assert f"Bearer {secret}" == "Bearer sk-1"
    for shown in (repr(secret), repr({"Authorization": secret}), repr([secret])):
        assert "sk-1" not in shown


def test_a_copy_is_as_secret() -> None:
    secret = Secret("sk-1")
    for twin in (copy.deepcopy(secret), pickle.loads(pickle.dumps(secret))):  # noqa: S301
        assert twin == "sk-1"
        assert repr(twin) == "'***'"

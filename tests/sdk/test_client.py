"""The synchronous clients, against a recording backend."""

import inspect
import threading
from collections.abc import Callable
from pathlib import Path
from socket import socket
from typing import Any

import httpx
import pytest

from pytest_synth_tunnels.sdk import (
    AsyncTunnelsClient,
    SynthClient,
    TunnelConnectionError,
    TunnelError,
    TunnelsClient,
    TunnelTimeoutError,
    requests,
)
from pytest_synth_tunnels.sdk.errors import TunnelAnswerError, TunnelRequestError

KEY = "sk-" + "5e" * 12

METHODS = [
    "health",
    "list",
    "create",
    "delete",
    "rotate",
    "create_lease",
    "heartbeat",
    "release_lease",
    "refresh_lease",
    "delete_lease",
    "list_leases",
    "create_synth_lease",
    "get_synth_lease",
    "close_synth_lease",
    "refresh_synth_worker_token",
]


def client_of(recorder: Any, **options: Any) -> TunnelsClient:
    return TunnelsClient(api_key="sk-1", base_url=recorder.url, **options)


def test_a_call_is_sent_with_the_key_and_its_answer_returned(recorder: Any) -> None:
    recorder.reply(201, {"lease_id": "l1"})
    with client_of(recorder) as client:
        answer = client.create_synth_lease(
            client_instance_id="c", local_host="127.0.0.1", local_port=80, metadata={"a": "é"}
        )
    assert answer == {"lease_id": "l1"}
    sent = recorder.last
    assert (sent.method, sent.target) == ("POST", "/api/v1/synthtunnel/leases")
    assert sent.headers["authorization"] == "Bearer sk-1"
    assert sent.headers["content-type"] == "application/json"
    assert sent.json["metadata"] == {"a": "é"}


def test_a_query_and_an_empty_answer(recorder: Any) -> None:
    recorder.reply(200, b"")
    with client_of(recorder) as client:
        assert client.list(status_filter="active", include_deleted=True) == {}
    assert recorder.last.target == "/v1/tunnels/?status_filter=active&include_deleted=true"
    assert recorder.last.body == b""


def test_a_call_can_be_made_as_a_value(recorder: Any) -> None:
    recorder.reply(200, {"status": "EXPIRED"})
    with client_of(recorder) as client:
        assert client.send(requests.close_synth_lease("l1")) == {"status": "EXPIRED"}
    assert recorder.last.target == "/api/v1/synthtunnel/leases/l1"


def test_an_id_stands_in_the_path_as_it_is(recorder: Any) -> None:
    with client_of(recorder) as client:
        client.delete("a/b?c=1")
        assert recorder.last.target == "/v1/tunnels/a/b?c=1"
        client.get_synth_lease(lease_id="é%2F")
        assert recorder.last.target == "/api/v1/synthtunnel/leases/%C3%A9%2F"


def test_a_backends_own_path_stays_in_front(recorder: Any) -> None:
    with TunnelsClient(api_key="k", backend_base=f"{recorder.url}/synth/api/v1/") as client:
        client.health()
    assert recorder.last.target == "/synth/v1/tunnels/health"


def test_connections_are_pooled_and_made_anew_after_close(recorder: Any) -> None:
    client = client_of(recorder)
    client.close()
    for _ in range(2):
        assert client.health() == {}
        assert client.health() == {}
        client.close()


def test_one_pool_for_all_threads(recorder: Any) -> None:
    with client_of(recorder) as client:
        pools: list[httpx.Client] = []
        threads = [threading.Thread(target=lambda: pools.append(client._pool())) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(10)
        assert len(pools) == 8
        assert len(set(map(id, pools))) == 1


def test_the_front_door(recorder: Any) -> None:
    with SynthClient(api_key="sk-1", base_url=f"{recorder.url}/v1", timeout=3) as client:
        assert client.tunnels.health() == {}
        assert isinstance(client.tunnels, TunnelsClient)
        assert (client.api_key, client.base_url, client.timeout) == ("sk-1", recorder.url, 3)
        assert "sk-1" not in repr(client)
        assert "sk-1" not in repr(vars(client))


def test_both_clients_have_the_same_calls() -> None:
    for name in METHODS:
        method, coroutine = getattr(TunnelsClient, name), getattr(AsyncTunnelsClient, name)
        assert inspect.signature(method) == inspect.signature(coroutine)
        assert method.__doc__ == coroutine.__doc__
        assert "Returns:" in method.__doc__
    assert str(inspect.signature(TunnelsClient(api_key="k").delete)).startswith("(tunnel_id: str)")


def test_a_refusal_is_both_kinds_of_error(recorder: Any) -> None:
    recorder.reply(422, {"code": "invalid", "detail": "local_port: 0"}, X_Request_Id="r1")
    with client_of(recorder) as client, pytest.raises(httpx.HTTPStatusError) as caught:
        client.create(subdomain="s", local_port=0)
    error = caught.value
    assert isinstance(error, TunnelRequestError)
    assert (error.status, error.request_id) == (422, "r1")
    assert error.response.json()["code"] == "invalid"
    assert error.request.url.path == "/v1/tunnels/"


def test_a_redirect_is_an_error(recorder: Any) -> None:
    recorder.reply(307, b"", Location="/elsewhere")
    with client_of(recorder) as client, pytest.raises(httpx.HTTPStatusError) as caught:
        client.health()
    assert isinstance(caught.value, TunnelError)
    assert len(recorder.requests) == 1


def test_a_page_instead_of_json(recorder: Any) -> None:
    recorder.reply(200, b"<html>", content_type="text/html")
    with client_of(recorder) as client, pytest.raises(TunnelAnswerError, match="text/html"):
        client.health()


def test_nobody_listens(refusing_url: str) -> None:
    with (
        TunnelsClient(api_key="sk-1", base_url=refusing_url) as client,
        pytest.raises(httpx.ConnectError) as caught,
    ):
        client.health()
    assert isinstance(caught.value, TunnelConnectionError)
    assert refusing_url in str(caught.value)
    assert caught.value.__suppress_context__


RawServer = Callable[[Callable[[socket], None]], str]


def test_nobody_answers(raw_server: RawServer) -> None:
    done = threading.Event()
    url = raw_server(lambda connection: bool(done.wait(30)) and None)
    with TunnelsClient(api_key="k", base_url=url, timeout=0.05) as client:
        with pytest.raises(httpx.ReadTimeout) as caught:
            client.health()
        done.set()
    assert isinstance(caught.value, TunnelTimeoutError)
    assert "no answer within 0.05 s" in str(caught.value)


def test_somebody_hangs_up(raw_server: RawServer) -> None:
    url = raw_server(lambda connection: connection.recv(1) and None)
    with (
        TunnelsClient(api_key="k", base_url=url) as client,
        pytest.raises(httpx.TransportError) as caught,
    ):
        client.health()
    assert isinstance(caught.value, TunnelConnectionError)


def test_an_id_that_fits_in_no_url(recorder: Any) -> None:
    with client_of(recorder) as client, pytest.raises(httpx.InvalidURL) as caught:
        client.delete("a\x7f")
    assert isinstance(caught.value, TunnelRequestError)
    assert recorder.requests == []


def test_retries_are_off_unless_asked_for(recorder: Any) -> None:
    recorder.reply(503, {}, Retry_After="0")
    with client_of(recorder) as client, pytest.raises(TunnelError):
        client.health()
    assert len(recorder.requests) == 1


def test_retries(recorder: Any) -> None:
    recorder.answers = [(503, {"Retry-After": "0"}, b"")]
    with client_of(recorder, retries=2) as client:
        assert client.health() == {}
        assert len(recorder.requests) == 2
        recorder.reply(503, {}, Retry_After="0")
        with pytest.raises(TunnelError):
            client.create(subdomain="s", local_port=1)
        assert len(recorder.requests) == 3
        with pytest.raises(TunnelError):
            client.health()
        assert len(recorder.requests) == 6


def test_proxies_are_not_asked_for_loopback(
    recorder: Any, refusing_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, refusing_url)
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with client_of(recorder) as client:
        assert client.health() == {}


def test_the_key_shows_nowhere(
    recorder: Any, refusing_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    recorder.reply(500, {"detail": f"key {KEY} broke it", "request_id": KEY})
    shown: list[str] = []
    for url in (recorder.url, refusing_url):
        with TunnelsClient(api_key=KEY, base_url=url) as client:
            with pytest.raises(TunnelError) as caught:
                client.health()
            error = caught.value
            shown += [repr(client), repr(vars(client)), repr(client._http_options())]
            shown += [str(error), repr(error), repr(vars(error))]
            shown += traceback_with_locals(caught)
    shown.append(caplog.text)
    assert len(shown) > 10
    assert not [text for text in shown if KEY in text]


def traceback_with_locals(caught: pytest.ExceptionInfo[BaseException]) -> list[str]:
    """What ``pytest --showlocals`` prints of this package's and its libraries' frames."""
    assert caught.value.__suppress_context__ or caught.value.__context__ is None
    return [
        f"{name} = {value!r}"
        for entry in caught.traceback
        if entry.path != Path(__file__)
        for name, value in entry.locals.items()
    ]

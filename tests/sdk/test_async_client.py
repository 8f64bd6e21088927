"""The asynchronous clients, against a recording backend."""

import asyncio
import gc
import inspect
import ssl
import threading
from collections.abc import Callable
from pathlib import Path
from socket import socket
from typing import Any

import httpx
import pytest

from pytest_synth_tunnels.sdk import (
    AsyncSynthClient,
    AsyncTunnelsClient,
    TunnelConnectionError,
    TunnelError,
)
from pytest_synth_tunnels.sdk.errors import TunnelRequestError, TunnelTimeoutError

KEY = "sk-" + "5e" * 12


def client_of(recorder: Any, **options: Any) -> AsyncTunnelsClient:
    return AsyncTunnelsClient(api_key=KEY, base_url=recorder.url, **options)


def test_a_call_is_sent_with_the_key_and_its_answer_returned(recorder: Any) -> None:
    recorder.reply(201, {"lease_id": "l1"})

    async def scenario() -> Any:
        async with client_of(recorder) as client:
            return await client.create_lease(
                client_instance_id="c", local_host="127.0.0.1", local_port=80, app_name="é"
            )

    assert asyncio.run(scenario()) == {"lease_id": "l1"}
    sent = recorder.last
    assert (sent.method, sent.target) == ("POST", "/v1/tunnels/lease")
    assert sent.headers["authorization"] == f"Bearer {KEY}"
    assert sent.json["app_name"] == "é"


def test_the_published_constructor_and_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SYNTH_API_KEY", KEY)
    parameters = inspect.signature(AsyncTunnelsClient).parameters
    assert list(parameters)[:4] == ["api_key", "backend_base", "base_url", "timeout"]
    client = AsyncTunnelsClient(backend_base="https://a", base_url="https://b")
    assert (client.backend_base, client.timeout_seconds) == ("https://a", 30.0)
    assert client.api_key == KEY


def test_connections_are_pooled_and_made_anew_after_close(recorder: Any) -> None:
    async def scenario() -> None:
        client = client_of(recorder)
        await client.aclose()
        for _ in range(2):
            assert await client.health() == {}
            assert await client.health() == {}
            await client.close()  # the published client's name

    asyncio.run(scenario())


def test_one_client_serves_one_event_loop_after_another(recorder: Any) -> None:
    client = client_of(recorder)

    def run() -> None:
        async def scenario() -> None:
            assert await client.health() == {}

        asyncio.run(scenario())
        gc.collect()  # connections that outlive their event loop would warn here

    for _ in range(3):
        run()
    assert len(client._pools) == 1


def test_one_client_serves_several_event_loops_at_once(recorder: Any) -> None:
    client = client_of(recorder)
    barrier = threading.Barrier(4, timeout=10)
    answers: list[Any] = []

    async def scenario() -> None:
        await client.health()
        barrier.wait()
        answers.append(await client.health())

    threads = [threading.Thread(target=lambda: asyncio.run(scenario())) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert answers == [{}] * 4


def test_calls_wait_for_their_answers_together(recorder: Any) -> None:
    # The backend answers nobody before all have asked, which takes a connection for each.
    count = 50
    barrier = threading.Barrier(count, timeout=30)
    recorder.reply(200, {"together": True})

    class Waiting(list[Any]):
        def __bool__(self) -> bool:
            barrier.wait()
            return False

    recorder.answers = Waiting()

    async def scenario() -> list[Any]:
        async with client_of(recorder) as client:
            return await asyncio.gather(*(client.health() for _ in range(count)))

    assert asyncio.run(scenario()) == [{"together": True}] * count


def test_the_front_door(recorder: Any) -> None:
    async def scenario() -> None:
        async with AsyncSynthClient(api_key=KEY, base_url=recorder.url, timeout=3) as client:
            assert await client.tunnels.health() == {}
            assert isinstance(client.tunnels, AsyncTunnelsClient)
            assert (client.api_key, client.base_url, client.timeout) == (KEY, recorder.url, 3)
            assert KEY not in repr(client)
            await client.close()

    asyncio.run(scenario())


def failure(call: Callable[[], Any]) -> pytest.ExceptionInfo[TunnelError]:
    async def scenario() -> None:
        await call()

    with pytest.raises(TunnelError) as caught:
        asyncio.run(scenario())
    return caught


def test_a_refusal_is_both_kinds_of_error(recorder: Any) -> None:
    recorder.reply(422, {"detail": "no"})
    caught = failure(client_of(recorder).health)
    assert isinstance(caught.value, TunnelRequestError)
    assert isinstance(caught.value, httpx.HTTPStatusError)
    assert caught.value.response.json() == {"detail": "no"}


def test_nobody_listens(refusing_url: str) -> None:
    client = AsyncTunnelsClient(api_key=KEY, base_url=refusing_url)
    caught = failure(client.health)
    assert isinstance(caught.value, TunnelConnectionError)
    assert isinstance(caught.value, httpx.ConnectError)
    assert caught.value.request.url == f"{refusing_url}/v1/tunnels/health"
    assert refusing_url in str(caught.value)


def test_nobody_answers(raw_server: Any) -> None:
    done = threading.Event()
    url = raw_server(lambda connection: bool(done.wait(30)) and None)
    caught = failure(AsyncTunnelsClient(api_key=KEY, base_url=url, timeout=0.05).health)
    done.set()
    assert isinstance(caught.value, TunnelTimeoutError)
    assert isinstance(caught.value, httpx.ReadTimeout)


def test_an_id_that_fits_in_no_url(recorder: Any) -> None:
    client = client_of(recorder)
    caught = failure(lambda: client.delete("a\x7f"))
    assert isinstance(caught.value, httpx.InvalidURL)


def test_retries(recorder: Any) -> None:
    recorder.answers = [(503, {"Retry-After": "0"}, b"")]

    async def scenario() -> None:
        async with client_of(recorder, retries=1) as client:
            assert await client.health() == {}

    asyncio.run(scenario())
    assert len(recorder.requests) == 2


def test_a_cancelled_call_disturbs_no_other(recorder: Any) -> None:
    async def scenario() -> None:
        async with client_of(recorder) as client:
            await client.health()
            call = asyncio.create_task(client.health())
            await asyncio.sleep(0)
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
            recorder.reply(200, {"n": 2})
            assert await client.health() == {"n": 2}

    asyncio.run(scenario())


def test_https(raw_server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    certificate = Path(__file__).with_name("loopback.pem")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)

    def handle(connection: socket) -> None:
        try:
            with context.wrap_socket(connection, server_side=True) as secure:
                while secure.recv(65_536):
                    secure.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")
        except OSError:
            pass  # the client did not like the certificate, or is gone

    url = raw_server(handle).replace("http:", "https:")

    async def scenario() -> None:
        client = AsyncTunnelsClient(api_key=KEY, base_url=url)
        assert await client.health() == {}
        assert await client.health() == {}

    with pytest.raises(httpx.ConnectError, match="certificate verify failed"):
        asyncio.run(scenario())
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    asyncio.run(scenario())


def test_proxies_are_for_hosted_backends(monkeypatch: pytest.MonkeyPatch) -> None:
    async def transport_of(url: str) -> httpx.AsyncBaseTransport:
        client = AsyncTunnelsClient(api_key=KEY, base_url=url)
        http = await client._pool()
        return http._transport_for_url(httpx.URL(url))

    for name in ("https_proxy", "HTTPS_PROXY", "http_proxy", "HTTP_PROXY", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    direct = type(asyncio.run(transport_of("https://h.example")))
    assert direct.__name__ == "ManyPools"
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:1")
    assert asyncio.run(transport_of("https://h.example")).__class__ is httpx.AsyncHTTPTransport
    assert isinstance(asyncio.run(transport_of("https://localhost")), direct)


def test_the_key_shows_nowhere(
    recorder: Any, refusing_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    recorder.reply(500, {"detail": f"key {KEY} broke it"})
    for url in (recorder.url, refusing_url):
        client = AsyncTunnelsClient(api_key=KEY, base_url=url)
        caught = failure(client.health)
        shown = [repr(client), repr(vars(client)), str(caught.value), repr(vars(caught.value))]
        shown += [
            f"{name} = {value!r}"
            for entry in caught.traceback
            if entry.path != Path(__file__)
            for name, value in entry.locals.items()
        ]
        assert not [text for text in [*shown, caplog.text] if KEY in text]

"""Our clients send what the published one (synth-ai 0.16.1) sends, and return what it returns."""

import asyncio
import inspect
import json
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from pytest_synth_tunnels.sdk import AsyncTunnelsClient, TunnelProvider, TunnelsClient

from ..support.examples import examples

pytestmark = pytest.mark.interop

DRIVER = Path(__file__).parent / "clients" / "published_driver.py"

Order = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def published(synth_ai_python: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Order]:
    """Make the published client do something; gives its ``result`` or the name of its ``error``."""
    home = str(tmp_path_factory.mktemp("home"))
    kept = {name: os.environ[name] for name in ("PATH", "SYSTEMROOT") if name in os.environ}
    with subprocess.Popen(
        [synth_ai_python, "-I", DRIVER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=kept | {"HOME": home, "USERPROFILE": home},
        text=True,
    ) as process:

        def order(do: str, **arguments: Any) -> dict[str, Any]:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write(json.dumps({"do": do, **arguments}) + "\n")
            process.stdin.flush()
            outcome: dict[str, Any] = json.loads(process.stdout.readline())
            return outcome

        yield order
        process.stdin.close()  # type: ignore[union-attr]
        process.wait(30)


@pytest.fixture
def runner() -> Iterator[asyncio.Runner]:
    with asyncio.Runner() as started:
        yield started


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
odd_ids = [
    "",
    ".",
    "..",
    "../x",
    "a/b",
    "a?b=c&d",
    "#f",
    "%2F",
    "%zz",
    "a b",
    "é",
    "//h",
    "h:1",
    "\n",
]
ids = texts | st.sampled_from(odd_ids)
numbers = st.integers(-1, 10**18)
optional_texts = st.none() | texts
json_objects = st.none() | st.dictionaries(
    texts,
    st.recursive(
        st.none() | st.booleans() | numbers | st.floats(allow_nan=False, allow_infinity=False),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
        max_leaves=5,
    ),
    max_size=3,
)
providers = st.sampled_from([{"$provider": "NGROK"}, {"$provider": "CLOUDFLARED"}]) | texts


def arguments(
    optional: dict[str, st.SearchStrategy[Any]] | None = None, **required: st.SearchStrategy[Any]
) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries(required, optional=optional or {})


CALLS = {
    "health": arguments(),
    "list": arguments({"status_filter": optional_texts, "include_deleted": st.booleans()}),
    "create": arguments({"local_host": texts}, subdomain=texts, local_port=numbers),
    "delete": arguments(tunnel_id=ids),
    "rotate": arguments({"local_port": numbers, "local_host": texts, "reason": optional_texts}),
    "create_lease": arguments(
        {
            "app_name": optional_texts,
            "provider_preference": providers,
            "requested_ttl_seconds": numbers,
            "reuse_connector": st.booleans(),
            "idempotency_key": optional_texts,
        },
        client_instance_id=texts,
        local_host=texts,
        local_port=numbers,
    ),
    "heartbeat": arguments(
        {
            "connected_to_edge": st.booleans(),
            "gateway_ready": st.booleans(),
            "local_ready": st.booleans(),
            "last_error": optional_texts,
        },
        lease_id=ids,
    ),
    "release_lease": arguments(lease_id=ids),
    "refresh_lease": arguments({"requested_ttl_seconds": numbers}, lease_id=ids),
    "delete_lease": arguments(lease_id=ids),
    "list_leases": arguments(
        {"client_instance_id": optional_texts, "include_expired": st.booleans()}
    ),
    "create_synth_lease": arguments(
        {
            "requested_ttl_seconds": numbers,
            "metadata": json_objects,
            "capabilities": json_objects,
        },
        client_instance_id=texts,
        local_host=texts,
        local_port=numbers,
    ),
    "get_synth_lease": arguments(lease_id=ids),
    "close_synth_lease": arguments(lease_id=ids),
    "refresh_synth_worker_token": arguments(lease_id=ids),
}

relaxed = settings(
    deadline=None,
    max_examples=examples(40),
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


def wire(recorder: Any) -> Any:
    """Take what was sent: what a backend can tell two requests apart by."""
    if not recorder.requests:
        return None
    (sent,) = recorder.requests
    recorder.requests.clear()
    path, _, query = sent.target.partition("?")
    return (
        sent.method,
        path,
        parse_qsl(query, keep_blank_values=True),
        sent.json,
        sent.headers.get("content-type"),
        sent.headers.get("authorization"),
    )


def outcome_of(call: Callable[[], Any]) -> tuple[Any, set[str]]:
    """Return the result, and the names of the classes of the error if there was one."""
    try:
        return call(), set()
    except Exception as error:
        return None, {kind.__name__ for kind in type(error).__mro__}


def own(values: dict[str, Any]) -> dict[str, Any]:
    match values:
        case {"provider_preference": {"$provider": name}}:
            return values | {"provider_preference": TunnelProvider[name]}
    return values


@pytest.mark.parametrize("method", CALLS)
def test_the_same_requests(
    method: str, published: Order, recorder: Any, runner: asyncio.Runner
) -> None:
    options = {"api_key": "sk-1", "base_url": recorder.url}
    client, async_client = TunnelsClient(**options), AsyncTunnelsClient(**options)

    @relaxed
    @given(CALLS[method], st.booleans())
    def check(values: dict[str, Any], asynchronous: bool) -> None:
        theirs = published(
            "call", options=options, method=method, arguments=values, asynchronous=asynchronous
        )
        sent = wire(recorder)
        assert (sent is None) == ("error" in theirs)
        for call in (
            lambda: getattr(client, method)(**own(values)),
            lambda: runner.run(getattr(async_client, method)(**own(values))),
        ):
            result, error = outcome_of(call)
            assert wire(recorder) == sent
            assert result == theirs.get("result")
            assert theirs.get("error") in error | {None}

    with client:
        check()


keys = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), max_size=20)


def test_the_same_authorization_and_the_same_path_in_front(
    published: Order, recorder: Any, runner: asyncio.Runner
) -> None:
    @settings(relaxed, max_examples=examples(20))
    @given(keys, st.sampled_from(["", "/", "/v1", "/api/v1/", "/synth", "/synth/api", "/a%20b/é"]))
    def check(key: str, path: str) -> None:
        assume(key.strip())
        options = {"api_key": key, "base_url": recorder.url + path}
        published("call", options=options, method="list", arguments={}, asynchronous=False)
        sent = wire(recorder)
        assert sent is not None
        with TunnelsClient(**options) as client:
            client.list()
        assert wire(recorder) == sent

        async def scenario() -> None:
            async with AsyncTunnelsClient(**options) as async_client:
                await async_client.list()

        runner.run(scenario())
        assert wire(recorder) == sent

    check()


statuses = st.sampled_from([200, 201, 202, 301, 307, 400, 401, 404, 409, 410, 422, 429, 500, 503])
answers = json_objects.map(lambda value: value or {})


@pytest.mark.parametrize("method", ["health", "list"])
def test_the_same_results(
    method: str, published: Order, recorder: Any, runner: asyncio.Runner
) -> None:
    options = {"api_key": "sk-1", "base_url": recorder.url}
    client, async_client = TunnelsClient(**options), AsyncTunnelsClient(**options)
    bodies = answers if method == "health" else answers | st.lists(answers, max_size=3)
    pages = st.sampled_from([b"", b"<html>", b"{", b"\xff", b'{"a": 1}  '])

    @relaxed
    @given(statuses, bodies | pages)
    def check(status: int, body: Any) -> None:
        recorder.reply(status, body)
        theirs = published("call", options=options, method=method, arguments={}, asynchronous=False)
        if theirs.get("error") in ("JSONDecodeError", "UnicodeDecodeError"):
            theirs["error"] = "ValueError"
        for call in (
            getattr(client, method),
            lambda: runner.run(getattr(async_client, method)()),
        ):
            result, error = outcome_of(call)
            assert result == theirs.get("result")
            assert theirs.get("error") in error | {None}
            assert not error or "TunnelError" in error

    with client:
        check()


@pytest.mark.parametrize(
    ("url", "error"),
    [("refusing", "ConnectError"), ("hanging up", "RemoteProtocolError"), ("slow", "ReadTimeout")],
)
def test_the_same_failures(
    url: str,
    error: str,
    published: Order,
    refusing_url: str,
    raw_server: Any,
    runner: asyncio.Runner,
) -> None:
    behaviours = {
        "hanging up": lambda connection: connection.recv(65_536) and None,
        "slow": lambda connection: connection.recv(65_536) and connection.recv(1) and None,
    }
    base_url = raw_server(behaviours[url]) if url in behaviours else refusing_url
    options = {"api_key": "sk-1", "base_url": base_url, "timeout": 0.2 if url == "slow" else 20}
    theirs = published("call", options=options, method="health", arguments={}, asynchronous=False)
    assert theirs == {"error": error}
    with TunnelsClient(**options) as client:
        assert {error, "TunnelError"} <= outcome_of(client.health)[1]
    async_client = AsyncTunnelsClient(**options)
    assert {error, "TunnelError"} <= outcome_of(lambda: runner.run(async_client.health()))[1]


origins = st.sampled_from(
    ["https://h", "https://h:8443", "HTTPS://H", "http://127.0.0.1:1", "http://localhost"]
)
afters = st.sampled_from(["", " ", "?q=1", "#f", "?q=/v1", "/ "])


def urls_with(paths: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.builds("".join, st.tuples(st.sampled_from(["", " ", "\n"]), origins, paths, afters))


segments = st.sampled_from(["/", "/v1", "/api", "/x", "/apiv1"])
urls = urls_with(st.lists(segments, max_size=4).map("".join))
# The published client cuts the environment's URL twice, which shows only where it is nonsense.
environ_urls = urls_with(st.sampled_from(["", "/", "/v1", "/api", "/api/v1", "/api/v1/", "/x/v1"]))
blanks = st.sampled_from([None, "", " "])
padded_keys = st.builds(
    lambda before, key, after: before + key + after,
    st.sampled_from(["", " ", "\t"]),
    keys.filter(str.strip),
    st.sampled_from(["", "\n"]),
)


def test_the_same_backend_and_the_same_key(
    published: Order, monkeypatch: pytest.MonkeyPatch
) -> None:
    @settings(relaxed, max_examples=examples(100))
    @given(
        backend_base=blanks | urls,
        base_url=blanks | urls,
        api_key=blanks | padded_keys,
        environ_url=st.none() | environ_urls,
        environ_key=blanks | padded_keys,
    )
    def check(
        backend_base: str | None,
        base_url: str | None,
        api_key: str | None,
        environ_url: str | None,
        environ_key: str | None,
    ) -> None:
        options = {"backend_base": backend_base, "base_url": base_url, "api_key": api_key}
        environ = {
            name: value
            for name, value in (("SYNTH_BACKEND_URL", environ_url), ("SYNTH_API_KEY", environ_key))
            if value is not None
        }
        theirs = published("resolve", options=options, environ=environ)
        for name in ("SYNTH_BACKEND_URL", "SYNTH_API_KEY"):
            monkeypatch.delenv(name, raising=False)
        for name, value in environ.items():
            monkeypatch.setenv(name, value)
        for kind in (TunnelsClient, AsyncTunnelsClient):
            if "error" in theirs:
                assert theirs == {"error": "ValueError"}
                with pytest.raises(ValueError, match="SYNTH_API_KEY"):
                    kind(**options)
                continue
            client = kind(**options)
            url, key = theirs["result"]
            assert client.api_key == key
            if (backend_base or base_url or "").strip() or environ_url:
                assert client.backend_base == url
            else:  # the published client has a development server here
                assert client.backend_base == "https://api.usesynth.ai"

    check()


def test_the_same_signatures(published: Order) -> None:
    theirs = published("signatures")["result"]
    assert theirs.keys() == CALLS.keys()
    for kind in (TunnelsClient, AsyncTunnelsClient):
        ours = {
            name: [
                [
                    parameter.name,
                    str(parameter.kind),
                    None if parameter.default is parameter.empty else [parameter.default],
                ]
                for parameter in inspect.signature(getattr(kind, name)).parameters.values()
                if parameter.name != "self"
            ]
            for name in CALLS
        }
        assert ours == theirs

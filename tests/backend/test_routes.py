import json
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_synth_tunnels.backend import schemas
from pytest_synth_tunnels.backend.common import RefusedError
from pytest_synth_tunnels.backend.routes import Routes
from pytest_synth_tunnels.backend.store import Store
from pytest_synth_tunnels.backend.tunnels import Tunnel
from pytest_synth_tunnels.http.headers import Response
from pytest_synth_tunnels.relay.route import Route

from ..support.examples import examples

KEY = "sk-test"
SYNTH = "/api/v1/synthtunnel/leases"
LEASE = {"client_instance_id": "client-12345678", "local_host": "127.0.0.1", "local_port": 8000}
SYNTH_LEASE = {
    "client_instance_id": "client-12345678",
    "local_target": {"host": "127.0.0.1", "port": 8000},
}
TUNNEL = {"subdomain": "demo", "local_port": 8000}


class Relay:
    def __init__(self) -> None:
        self.routes: dict[str, Route] = {}

    def add(self, route: Route) -> None:
        self.routes[route.lease_id] = route

    def close(self, lease_id: str, reason: str) -> None:
        self.routes[lease_id].closed = True

    def rotate_agent(self, lease_id: str, agent_token: str) -> None:
        self.routes[lease_id].agent_token = agent_token

    def rotate_worker(self, lease_id: str, worker_token: str) -> None:
        self.routes[lease_id].worker_token = worker_token

    def remove(self, lease_id: str) -> None:
        del self.routes[lease_id]


class Edge:
    """Carries nothing."""

    def open_tunnel(self, tunnel: Tunnel) -> None: ...

    def close_tunnel(self, tunnel_id: str) -> None: ...

    def open_lease(self, prefix: str, managed_tunnel_id: str, tunnel_token: str) -> None: ...

    def close_lease(self, prefix: str, managed_tunnel_id: str) -> None: ...


class Caller:
    """Speaks to the control plane as HTTP would."""

    def __init__(self) -> None:
        self.routes = Routes(
            Store(
                relay=Relay(),
                edge=Edge(),
                public_base_url="http://127.0.0.1:8787",
                agent_url="ws://127.0.0.1:8787/api/v1/synthtunnel/agent",
            ),
            api_key=KEY,
        )

    def answer(
        self,
        method: str,
        target: str,
        body: Any = b"",
        authorization: str | None = f"Bearer {KEY}",
    ) -> Response:
        path, _, query = target.partition("?")
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        return self.routes.handle(method, path, query, authorization, raw)

    def ok(self, method: str, target: str, body: Any = b"", status: int = 200) -> Any:
        got, _, raw = self.answer(method, target, body)
        assert got == status, raw
        return json.loads(raw)

    def refused(self, status: int, method: str, target: str, body: Any = b"") -> str:
        got, _, raw = self.answer(method, target, body)
        assert got == status, raw
        error = json.loads(raw)
        assert error.keys() == {"code", "detail", "message", "request_id"}
        assert error["detail"] == error["message"]
        return str(error["message"])


@pytest.fixture
def caller() -> Caller:
    return Caller()


def test_health_names_the_providers(caller: Caller) -> None:
    assert caller.ok("GET", "/v1/tunnels/health") == {
        "status": "ok",
        "providers": ["ngrok", "cloudflared", "synthtunnel"],
    }


@pytest.mark.parametrize("prefix", ["/v1/tunnels", "/api/v1/tunnels"])
def test_tunnels_live_under_both_prefixes(caller: Caller, prefix: str) -> None:
    tunnel = caller.ok("POST", f"{prefix}/", TUNNEL)
    assert (tunnel["local_host"], tunnel["status"]) == ("127.0.0.1", "active")
    assert caller.ok("GET", f"{prefix}/") == [tunnel]
    rotated = caller.ok("POST", f"{prefix}/rotate", {"local_port": 9, "reason": "why"})
    assert (rotated["status"], rotated["local_port"], rotated["reason"]) == ("rotated", 9, "why")
    assert caller.ok("POST", f"{prefix}/rotate", {})["local_port"] == 8000
    assert caller.ok("DELETE", f"{prefix}/{tunnel['id']}")["status"] == "deleted"
    assert caller.ok("GET", f"{prefix}/") == []
    assert len(caller.ok("GET", f"{prefix}/?include_deleted=true")) == 1
    assert caller.ok("GET", f"{prefix}/?include_deleted=true&status_filter=active") == []


@pytest.mark.parametrize("prefix", ["/v1/tunnels/lease", "/api/v1/tunnels/lease"])
def test_managed_leases_live_under_both_prefixes(caller: Caller, prefix: str) -> None:
    lease = caller.ok("POST", prefix, LEASE)
    assert (lease["provider_preference"], lease["requested_ttl_seconds"]) == ("ngrok", 3600)
    assert lease["reuse_connector"] is True
    one = f"{prefix}/{lease['lease_id']}"
    assert caller.ok("POST", f"{one}/heartbeat", {"last_error": None})["status"] == "heartbeat_ok"
    assert caller.ok("POST", f"{one}/refresh", {"requested_ttl_seconds": 90.5})[
        "requested_ttl_seconds"
    ] == 90.5  # fmt: skip
    assert len(caller.ok("GET", prefix)) == 1
    assert caller.ok("GET", f"{prefix}?client_instance_id=other") == []
    assert caller.ok("POST", f"{one}/release")["status"] == "released"
    assert caller.ok("GET", prefix) == []
    assert len(caller.ok("GET", f"{prefix}?include_expired=True")) == 1
    assert caller.ok("DELETE", one)["status"] == "deleted"
    assert caller.ok("GET", f"{prefix}?include_expired=1") == []


def test_synth_leases_live_under_api(caller: Caller) -> None:
    lease = caller.ok("POST", SYNTH, SYNTH_LEASE, status=201)
    one = f"{SYNTH}/{lease['lease_id']}"
    assert caller.ok("GET", one)["status"] == "PENDING"
    fresh = caller.ok("POST", f"{one}/token:refresh")
    assert fresh["worker_token"] != lease["worker_token"]
    assert caller.ok("POST", f"{one}/token%3Arefresh")["worker_token"] != fresh["worker_token"]
    moved = caller.ok("POST", f"{one}/agent-token:refresh")["agent_connect"]
    assert moved.keys() == lease["agent_connect"].keys()
    assert moved["agent_token"] != lease["agent_connect"]["agent_token"]
    assert caller.ok("DELETE", one)["status"] == "EXPIRED"
    assert "lease_expired" in caller.refused(410, "POST", f"{one}/token:refresh")


@pytest.mark.parametrize(
    ("authorization", "says"),
    [
        (None, "wants the header"),
        ("", "wants the header"),
        ("Bearer ", "wants the header"),
        ("Basic abc", "wants the header"),
        ("Bearer wrong-secret", "not the backend's"),
        ("Bearer sk-tesé", "not the backend's"),
        (f"Bearer {KEY}x", "not the backend's"),
    ],
)
def test_the_key_is_checked_before_the_body(
    caller: Caller, authorization: str | None, says: str
) -> None:
    status, headers, raw = caller.answer("POST", "/v1/tunnels/", b"{", authorization)
    error = json.loads(raw)
    assert (status, error["code"]) == (401, "unauthorized")
    assert says in error["message"]
    assert ("WWW-Authenticate", "Bearer") in headers
    assert b"wrong-secret" not in raw
    assert KEY.encode() not in raw


def test_the_scheme_is_case_insensitive(caller: Caller) -> None:
    assert caller.answer("GET", "/v1/tunnels/health", b"", f"bearer {KEY}")[0] == 200


@pytest.mark.parametrize(
    "target",
    [
        "/",
        "/v1",
        "/v1/synthtunnel/leases",
        "/api/v1/tunnelsx",
        "/v1/tunnels/lease/a/b",
        "/v1/tunnels/a/b/c/d/e",
        "",
        "*",
    ],
)
def test_elsewhere_is_nothing(caller: Caller, target: str) -> None:
    assert "nothing at" in caller.refused(404, "GET", target)


@pytest.mark.parametrize("target", ["/", "/login", "/static/app.js", "/favicon.ico", "/~gw1/x"])
def test_a_link_that_lost_its_prefix_is_told_what_to_do(caller: Caller, target: str) -> None:
    message = caller.refused(404, "GET", target)
    assert f"nothing at {target!r}. If a link" in message
    assert "lost the path of its lease's public URL" in message
    assert "synth_tunnels_url_style = root" in message


def test_a_wrong_method_names_the_right_ones(caller: Caller) -> None:
    status, headers, raw = caller.answer("PUT", "/v1/tunnels/")
    assert status == 405
    assert ("Allow", "GET, POST") in headers
    assert "takes GET, POST, not 'PUT'" in json.loads(raw)["message"]


@pytest.mark.parametrize(
    ("target", "body", "says"),
    [
        ("/v1/tunnels/", TUNNEL | {"subdomain": ""}, "subdomain must be"),
        ("/v1/tunnels/", TUNNEL | {"subdomain": "a/b"}, "subdomain must be"),
        ("/v1/tunnels/", TUNNEL | {"subdomain": "a\n"}, "subdomain must be"),
        ("/v1/tunnels/", TUNNEL | {"local_port": 0}, "local_port must be an integer from 1"),
        ("/v1/tunnels/", TUNNEL | {"local_port": 65536}, "local_port must be"),
        ("/v1/tunnels/", TUNNEL | {"local_port": True}, "local_port must be"),
        ("/v1/tunnels/", TUNNEL | {"local_port": "8000"}, "local_port must be"),
        ("/v1/tunnels/", TUNNEL | {"local_host": ""}, "local_host must be"),
        ("/v1/tunnels/", {"local_port": 1}, "missing required field `subdomain`"),
        ("/v1/tunnels/", [], "got `array`"),
        ("/v1/tunnels/rotate", {"local_port": -1}, "local_port must be"),
        ("/v1/tunnels/lease", LEASE | {"provider_preference": "x"}, "'ngrok' or 'cloudflared'"),
        ("/v1/tunnels/lease", LEASE | {"client_instance_id": ""}, "client_instance_id must be"),
        ("/v1/tunnels/lease", LEASE | {"client_instance_id": " "}, "client_instance_id must be"),
        ("/v1/tunnels/lease", LEASE | {"requested_ttl_seconds": 0}, "must be a positive number"),
        ("/v1/tunnels/lease", LEASE | {"requested_ttl_seconds": -0.5}, "must be a positive"),
        ("/v1/tunnels/lease", LEASE | {"requested_ttl_seconds": "1"}, "must be a positive"),
        ("/v1/tunnels/lease", LEASE | {"requested_ttl_seconds": None}, "must be a positive"),
        ("/v1/tunnels/lease", LEASE | {"requested_ttl_seconds": 10**400}, "must be a positive"),
        ("/v1/tunnels/lease", LEASE | {"reuse_connector": 1}, "reuse_connector"),
        (SYNTH, SYNTH_LEASE | {"client_instance_id": ""}, "client_instance_id must be"),
        (SYNTH, SYNTH_LEASE | {"local_target": {"host": "h", "port": 0}}, "port must be"),
        (SYNTH, SYNTH_LEASE | {"local_target": {"host": "h h", "port": 1}}, "host must be"),
        (SYNTH, SYNTH_LEASE | {"local_target": None}, "local_target"),
        (SYNTH, SYNTH_LEASE | {"requested_ttl_seconds": 0}, "must be a positive number"),
        (SYNTH, SYNTH_LEASE | {"metadata": []}, "metadata"),
        (SYNTH, SYNTH_LEASE | {"metadata": {"require_token": "no"}}, "require_token must be"),
        (SYNTH, SYNTH_LEASE | {"capabilities": {"max_inflight": 0}}, "max_inflight must be"),
        (SYNTH, SYNTH_LEASE | {"capabilities": {"max_inflight": "9"}}, "max_inflight must be"),
    ],
)
def test_what_does_not_validate_is_explained(
    caller: Caller, target: str, body: Any, says: str
) -> None:
    assert says in caller.refused(422, "POST", target, body)


def test_a_flag_of_the_query_is_true_or_false(caller: Caller) -> None:
    message = caller.refused(422, "GET", "/v1/tunnels/?include_deleted=maybe")
    assert message == "include_deleted is true or false, not 'maybe'"


def test_a_query_is_bounded(caller: Caller) -> None:
    assert "100 fields" in caller.refused(400, "GET", "/v1/tunnels/?" + "a=1&" * 101)


@pytest.mark.parametrize("body", [b"", b"{", b"\xff", b'{"subdomain": "\xff"}', b"x {}"])
def test_what_is_not_json_is_refused(caller: Caller, body: bytes) -> None:
    assert "not JSON" in caller.refused(400, "POST", "/v1/tunnels/", body)


@pytest.mark.parametrize("where", ["metadata", "unknown"])
def test_deep_json_is_refused(caller: Caller, where: str) -> None:
    body = json.dumps(SYNTH_LEASE)[:-1] + f', "{where}": ' + '{"a":' * 50_000 + "1" + "}" * 50_001
    assert "too deep" in caller.refused(400, "POST", SYNTH, body.encode())


def test_what_cannot_be_echoed_never_becomes_a_lease(
    caller: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    def encode(value: object) -> bytes:
        raise OverflowError("64 bits")

    raw = json.dumps(SYNTH_LEASE | {"metadata": {"n": 10**30}}).encode()
    with monkeypatch.context() as patch:
        patch.setattr(msgspec.json, "encode", encode)
        with pytest.raises(RefusedError, match="64-bit") as caught:
            schemas.read(raw, schemas.CreateSynthLease)
    assert caught.value.status == 422


def test_conflicts_and_unknown_ids_reach_the_caller(caller: Caller) -> None:
    caller.ok("POST", "/v1/tunnels/", TUNNEL)
    assert "taken" in caller.refused(409, "POST", "/v1/tunnels/", TUNNEL)
    caller.refused(404, "DELETE", "/v1/tunnels/tun_x")
    caller.refused(404, "POST", "/v1/tunnels/lease/x/release")
    caller.refused(404, "GET", f"{SYNTH}/x")


def test_each_refusal_has_its_own_request_id(caller: Caller) -> None:
    ids = {json.loads(caller.answer("GET", "/x")[2])["request_id"] for _ in range(3)}
    assert len(ids) == 3


NAMES = st.sampled_from(
    sorted(
        {
            *(*LEASE, *SYNTH_LEASE, *TUNNEL, "metadata", "capabilities", "max_inflight"),
            *("require_token", "requested_ttl_seconds", "provider_preference", "reuse_connector"),
            *("app_name", "idempotency_key", "connected_to_edge", "gateway_ready", "local_ready"),
            *("last_error", "reason"),
        }
    )
)
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**40), 10**40)
    | st.floats()
    | st.text(max_size=20)
    | st.sampled_from(["127.0.0.1", "demo", "ngrok", "client-12345678", 8000, 600]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=4),
    max_leaves=8,
)
BODIES = st.binary(max_size=40) | st.dictionaries(NAMES, VALUES).map(
    lambda body: json.dumps(body).encode()
)
MANAGED = "/v1/tunnels/lease"
IDS = ["{tunnel}", "{managed}", "{synth}"]
"""Stand for those of a tunnel and of leases that exist."""
SEGMENTS = st.sampled_from(
    [
        *("v1", "tunnels", "lease", "api", "synthtunnel", "leases", "", "x", *IDS),
        *("heartbeat", "release", "refresh", "rotate", "token:refresh", "agent-token:refresh"),
    ]
)
KNOWN_PATHS = [
    *("/v1/tunnels/", "/v1/tunnels/{tunnel}", "/v1/tunnels/rotate", MANAGED, SYNTH),
    *(f"{MANAGED}/{{managed}}", f"{SYNTH}/{{synth}}"),
    *(f"{MANAGED}/{{managed}}/{action}" for action in ("heartbeat", "release", "refresh")),
    *(f"{SYNTH}/{{synth}}/{action}" for action in ("token:refresh", "agent-token:refresh")),
]
PATHS = st.sampled_from(KNOWN_PATHS) | st.lists(SEGMENTS | st.text(max_size=9), max_size=6).map(
    lambda segments: "/" + "/".join(segments)
)
REQUESTS = st.tuples(
    st.sampled_from(["GET", "POST", "POST", "DELETE", "PUT"]),
    PATHS,
    st.text(max_size=20) | st.sampled_from(["include_deleted=%", "include_expired=1"]),
    BODIES,
)


class Known:
    """A control plane that has something of each kind already."""

    def __init__(self) -> None:
        self.caller = Caller()
        created = {
            "tunnel": self.caller.ok("POST", "/v1/tunnels/", TUNNEL),
            "managed": self.caller.ok("POST", MANAGED, LEASE),
            "synth": self.caller.ok("POST", SYNTH, SYNTH_LEASE, status=201),
        }
        self.ids = {
            f"{{{kind}}}": str(one.get("id") or one["lease_id"]) for kind, one in created.items()
        }
        synth = created["synth"]
        self.tokens = (
            *(synth["worker_token"], synth["agent_connect"]["agent_token"]),
            created["managed"]["tunnel_token"],
        )

    def send(self, request: tuple[str, str, str, bytes], authorization: str | None) -> Response:
        method, path, query, body = request
        for name, known in self.ids.items():
            path = path.replace(name, known)
        return self.caller.routes.handle(method, path, query, authorization, body)

    def state(self) -> list[Any]:
        """Return all that can be listed."""
        paths = (
            *("/v1/tunnels/?include_deleted=1", f"{MANAGED}?include_expired=1"),
            f"{SYNTH}/{self.ids['{synth}']}",
        )
        return [self.caller.ok("GET", path) for path in paths]


@settings(deadline=None, max_examples=examples(120))
@given(st.lists(REQUESTS, min_size=1, max_size=6))
def test_whatever_is_sent_gets_an_answer(requests: list[tuple[str, str, str, bytes]]) -> None:
    known = Known()
    for request in requests:
        status, _, raw = known.send(request, f"Bearer {KEY}")
        assert status in (200, 201, 400, 404, 405, 409, 410, 422), raw
        assert isinstance(json.loads(raw), dict | list)
        # An answer that is not a new lease's shows nobody's token.
        for token in known.tokens:
            assert token.encode() not in raw or request[:2] == ("POST", MANAGED)
    known.state()
    known.caller.ok("POST", "/v1/tunnels/", TUNNEL | {"subdomain": "another"})
    known.caller.ok("POST", MANAGED, LEASE)
    known.caller.ok("POST", SYNTH, SYNTH_LEASE, status=201)


@settings(deadline=None, max_examples=examples(50))
@given(
    st.lists(REQUESTS, min_size=1, max_size=4),
    st.none()
    | st.text(max_size=20)
    | st.text(max_size=20).map(lambda key: f"Bearer {key}")
    | st.sampled_from([f"Bearer {KEY}\0", f"Bearer {KEY[:-1]}", f"Basic {KEY}", KEY]),
)
def test_whoever_has_no_key_changes_nothing(
    requests: list[tuple[str, str, str, bytes]], authorization: str | None
) -> None:
    known = Known()
    before = known.state()
    for request in requests:
        status, _, raw = known.send(request, authorization)
        assert status in (401, 404, 405)
        # Which paths there are is no secret; which ids there are is one.
        assert status != 404 or "nothing at" in json.loads(raw)["message"]
    assert known.state() == before

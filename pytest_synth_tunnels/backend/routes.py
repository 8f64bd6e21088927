"""The control plane: from a method, a path and a body to the store, and back to JSON. No I/O."""

import os
from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple
from urllib.parse import parse_qs, unquote

import msgspec

from ..http.errors import error_response
from ..http.headers import Headers, Response
from ..http.refusal_log import log_refusal
from ..relay.auth import same_secret
from . import schemas
from .common import RefusedError
from .store import Store

__all__ = ["Match", "Routes", "refusal"]

_HEADERS: Final[Headers] = [("Content-Type", "application/json"), ("Cache-Control", "no-store")]
_TRUTHS: Final = {"true": True, "1": True, "false": False, "0": False}
_TUNNELS: Final = "/v1/tunnels"


class ApiCall(NamedTuple):
    """A matched request, as its handler gets it."""

    id: str
    """The id in the path, decoded; empty where the path has no id."""
    query: Mapping[str, str]
    body: bytes

    def flag(self, name: str) -> bool:
        """Return a boolean of the query; false if it is absent."""
        value = self.query.get(name, "false").lower()
        if value not in _TRUTHS:
            raise RefusedError(
                422, "validation_error", f"{name} is true or false, not {value[:40]!r}"
            )
        return _TRUTHS[value]


Handler = Callable[[Store, ApiCall], Any]


class Match(NamedTuple):
    """A request that may be run: it has a route, and its caller may use it."""

    handler: Handler
    status: int
    id: str


class Routes:
    """The control plane of a store.

    Args:
        store: what it reads and changes.
        api_key: what every caller must show.
    """

    def __init__(self, store: Store, *, api_key: str) -> None:
        self._store = store
        self._api_key = api_key

    def has(self, path: str) -> bool:
        """Say whether there is anything at a raw path."""
        return _find(path)[0] is not None

    def match(self, method: str, path: str, authorization: str | None) -> Match:
        """Find the handler of a request by its head alone.

        Args:
            method: the HTTP method.
            path: the raw path, without the query.
            authorization: the header of this name, if there was one.

        Raises:
            RefusedError: 401, 404 or 405.
        """
        methods, item = _find(path)
        if methods is None:
            raise RefusedError(404, "not_found", _nothing_at(path))
        self._authenticate(authorization)
        if method not in methods:
            allowed = ", ".join(methods)
            raise RefusedError(
                405,
                "method_not_allowed",
                f"{path[:200]!r} takes {allowed}, not {method[:20]!r}",
                headers=(("Allow", allowed),),
            )
        handler, status = methods[method]
        return Match(handler, status, item)

    def run(self, match: Match, query: str, body: bytes) -> Response:
        """Carry out a matched request.

        Args:
            match: from :meth:`match`.
            query: the raw query, without its ``?``.
            body: the whole body.

        Raises:
            RefusedError: the query, the body or the state does not allow it.
        """
        payload = match.handler(self._store, ApiCall(match.id, _query(query), body))
        return match.status, _HEADERS, msgspec.json.encode(payload)

    def handle(
        self, method: str, path: str, query: str, authorization: str | None, body: bytes
    ) -> Response:
        """Answer a whole request; a refusal is an answer too."""
        try:
            return self.run(self.match(method, path, authorization), query, body)
        except RefusedError as error:
            return refusal(error)

    def _authenticate(self, authorization: str | None) -> None:
        scheme, _, shown = (authorization or "").partition(" ")
        if scheme.lower() != "bearer" or not shown.strip():
            message = "the backend wants the header 'Authorization: Bearer <SYNTH_API_KEY>'"
        elif not same_secret(shown.strip(), self._api_key):
            message = "this API key is not the backend's: check SYNTH_API_KEY"
        else:
            return
        raise RefusedError(401, "unauthorized", message, headers=(("WWW-Authenticate", "Bearer"),))


def refusal(error: RefusedError, peer: str = "") -> Response:
    """Log a refusal, and return the answer that tells it.

    Args:
        error: why.
        peer: the caller's address; empty where it is this process.
    """
    request_id = f"req_{os.urandom(8).hex()}"
    log_refusal(error.status, error.code, request_id, peer)
    return error_response(
        error.status, error.code, error.message, request_id, headers=list(error.headers)
    )


def _find(path: str) -> tuple[Mapping[str, tuple[Handler, int]] | None, str]:
    """Return the methods of a path, or ``None`` for an unknown path, and the id in it."""
    if path.startswith("/api" + _TUNNELS):
        path = path.removeprefix("/api")
    segments = tuple(unquote(segment) for segment in path.rstrip("/").split("/")[1:])
    for pattern, methods in _PATHS.items():
        if len(pattern) == len(segments) and all(
            want in ("*", have) for want, have in zip(pattern, segments, strict=True)
        ):
            at = pattern.index("*") if "*" in pattern else None
            return methods, "" if at is None else segments[at]
    return None, ""


def _nothing_at(path: str) -> str:
    """Return why an unknown path is answered with 404: most such requests are meant for an app."""
    message = f"this backend has nothing at {path[:200]!r}"
    if path.startswith(("/v1/", "/api/")):
        return message
    return (
        f"{message}. If a link, a form or a script of an app led here, it has lost the path of its "
        "lease's public URL (/s/rt_...): use synth_tunnels_url_style = root, which gives the app "
        "an origin of its own, or have the app put the path in front of its links (it comes with "
        "each request, as X-Forwarded-Prefix)"
    )


def _query(raw: str) -> dict[str, str]:
    """Return the last value of each name."""
    try:
        parsed = parse_qs(raw, keep_blank_values=True, max_num_fields=100)
    except ValueError:
        raise RefusedError(400, "bad_request", "the query has more than 100 fields") from None
    return {name: values[-1] for name, values in parsed.items()}


def _health(store: Store, call: ApiCall) -> Any:
    return {"status": "ok", "providers": [*schemas.PROVIDERS, "synthtunnel"]}


def _list_tunnels(store: Store, call: ApiCall) -> Any:
    return store.tunnels.list(
        status=call.query.get("status_filter"), include_deleted=call.flag("include_deleted")
    )


def _create_tunnel(store: Store, call: ApiCall) -> Any:
    body = schemas.read(call.body, schemas.CreateTunnel)
    return store.tunnels.create(**msgspec.structs.asdict(body))


def _delete_tunnel(store: Store, call: ApiCall) -> Any:
    return store.tunnels.delete(call.id)


def _rotate_tunnel(store: Store, call: ApiCall) -> Any:
    body = schemas.read(call.body, schemas.RotateTunnel)
    return store.tunnels.rotate(**msgspec.structs.asdict(body))


def _create_lease(store: Store, call: ApiCall) -> Any:
    return store.leases.create(schemas.read(call.body, schemas.CreateLease).request())


def _list_leases(store: Store, call: ApiCall) -> Any:
    return store.leases.list(
        client_instance_id=call.query.get("client_instance_id"),
        include_ended=call.flag("include_expired"),
    )


def _heartbeat(store: Store, call: ApiCall) -> Any:
    body = schemas.read(call.body, schemas.HeartbeatBody)
    return store.leases.heartbeat(call.id, **msgspec.structs.asdict(body))


def _release_lease(store: Store, call: ApiCall) -> Any:
    return store.leases.release(call.id)


def _refresh_lease(store: Store, call: ApiCall) -> Any:
    body = schemas.read(call.body, schemas.RefreshLease)
    return store.leases.refresh(call.id, body.requested_ttl_seconds)


def _delete_lease(store: Store, call: ApiCall) -> Any:
    return store.leases.delete(call.id)


def _create_synth_lease(store: Store, call: ApiCall) -> Any:
    return store.synth.create(schemas.read(call.body, schemas.CreateSynthLease).request())


def _get_synth_lease(store: Store, call: ApiCall) -> Any:
    return store.synth.status(call.id)


def _close_synth_lease(store: Store, call: ApiCall) -> Any:
    return store.synth.close(call.id)


def _refresh_worker_token(store: Store, call: ApiCall) -> Any:
    return store.synth.refresh_worker_token(call.id)


def _refresh_agent_token(store: Store, call: ApiCall) -> Any:
    return store.synth.refresh_agent_token(call.id)


_SYNTH: Final = ("api", "v1", "synthtunnel", "leases")
_MANAGED: Final = ("v1", "tunnels")

_PATHS: Final[dict[tuple[str, ...], dict[str, tuple[Handler, int]]]] = {
    _MANAGED: {"GET": (_list_tunnels, 200), "POST": (_create_tunnel, 200)},
    (*_MANAGED, "health"): {"GET": (_health, 200)},
    (*_MANAGED, "rotate"): {"POST": (_rotate_tunnel, 200)},
    (*_MANAGED, "lease"): {"GET": (_list_leases, 200), "POST": (_create_lease, 200)},
    (*_MANAGED, "lease", "*"): {"DELETE": (_delete_lease, 200)},
    (*_MANAGED, "lease", "*", "heartbeat"): {"POST": (_heartbeat, 200)},
    (*_MANAGED, "lease", "*", "release"): {"POST": (_release_lease, 200)},
    (*_MANAGED, "lease", "*", "refresh"): {"POST": (_refresh_lease, 200)},
    (*_MANAGED, "*"): {"DELETE": (_delete_tunnel, 200)},
    _SYNTH: {"POST": (_create_synth_lease, 201)},
    (*_SYNTH, "*"): {"GET": (_get_synth_lease, 200), "DELETE": (_close_synth_lease, 200)},
    (*_SYNTH, "*", "token:refresh"): {"POST": (_refresh_worker_token, 200)},
    (*_SYNTH, "*", "agent-token:refresh"): {"POST": (_refresh_agent_token, 200)},
}
"""The handler and success status of each method, by path; ``*`` is an id. The first path that
matches counts."""

"""The bodies that the control plane takes, typed; msgspec validates them."""

import re
from typing import Annotated, Any, Final, Literal, TypeVar, get_args

import msgspec
from msgspec import Meta

from .common import RefusedError
from .managed_leases import LeaseRequest
from .synth_leases import SynthLeaseRequest

__all__ = [
    "CreateLease",
    "CreateSynthLease",
    "CreateTunnel",
    "HeartbeatBody",
    "RefreshLease",
    "RotateTunnel",
    "read",
]

Provider = Literal["ngrok", "cloudflared"]
PROVIDERS: Final[tuple[str, ...]] = get_args(Provider)
"""The providers of managed leases."""

Port = Annotated[int, Meta(ge=1, le=65_535)]
Host = Annotated[str, Meta(pattern=r"\A[A-Za-z0-9_.:%\[\]-]{1,255}\Z")]
Subdomain = Annotated[str, Meta(pattern=r"\A[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?\Z")]
Name = Annotated[str, Meta(pattern=r"\S", max_length=255)]
Text = Annotated[str, Meta(max_length=255)]
Seconds = Annotated[int, Meta(gt=0, le=10**9)] | Annotated[float, Meta(gt=0, le=1e9)]

_RULES: Final = {
    "subdomain": "1 to 63 letters, digits and inner hyphens",
    "local_port": "an integer from 1 to 65535",
    "port": "an integer from 1 to 65535",
    "local_host": "a host name or an address",
    "host": "a host name or an address",
    "client_instance_id": "1 to 255 characters, not all of them blank",
    "provider_preference": " or ".join(map(repr, PROVIDERS)),
    "requested_ttl_seconds": "a positive number",
    "require_token": "true or false",
    "max_inflight": "a positive integer",
}
"""What a field must be, in words. Fields that are not listed get msgspec's own words."""
_FIELD: Final = re.compile(r" - at `\$(?:\.\w+)*\.(\w+)`")


class _Body(msgspec.Struct, kw_only=True):
    """Base of all bodies; unknown names are ignored."""


class CreateTunnel(_Body):
    subdomain: Subdomain
    local_port: Port
    local_host: Host = "127.0.0.1"


class RotateTunnel(_Body):
    local_port: Port = 8000
    local_host: Host = "127.0.0.1"
    reason: Annotated[str, Meta(max_length=1_000)] | None = None


class CreateLease(_Body):
    client_instance_id: Name
    local_host: Host
    local_port: Port
    app_name: Text | None = None
    provider_preference: Provider = "ngrok"
    requested_ttl_seconds: Seconds = 3600
    reuse_connector: bool = True
    idempotency_key: Text | None = None

    def request(self) -> LeaseRequest:
        """Return it as the store takes it."""
        return LeaseRequest(**msgspec.structs.asdict(self))


class HeartbeatBody(_Body):
    connected_to_edge: bool = False
    gateway_ready: bool = False
    local_ready: bool = False
    last_error: Annotated[str, Meta(max_length=10_000)] | None = None


class RefreshLease(_Body):
    requested_ttl_seconds: Seconds = 3600


class LocalTargetBody(_Body):
    host: Host
    port: Port


class _Metadata(_Body):
    require_token: bool = True


class _Capabilities(_Body):
    max_inflight: Annotated[int, Meta(ge=1)] | None = None


class CreateSynthLease(_Body):
    client_instance_id: Name
    local_target: LocalTargetBody
    requested_ttl_seconds: Seconds = 3600
    metadata: dict[str, Any] = {}
    capabilities: dict[str, Any] = {}

    def __post_init__(self) -> None:
        msgspec.convert(self.metadata, _Metadata)
        msgspec.convert(self.capabilities, _Capabilities)
        try:
            msgspec.json.encode([self.metadata, self.capabilities])
        except (OverflowError, RecursionError):
            raise ValueError(
                "metadata and capabilities may hold 64-bit integers and little nesting"
            ) from None

    def request(self) -> SynthLeaseRequest:
        """Return it as the store takes it."""
        return SynthLeaseRequest(
            client_instance_id=self.client_instance_id,
            local_host=self.local_target.host,
            local_port=self.local_target.port,
            requested_ttl_seconds=self.requested_ttl_seconds,
            metadata=self.metadata,
            capabilities=self.capabilities,
        )


_B = TypeVar("_B", bound=_Body)


def read(body: bytes, kind: type[_B]) -> _B:
    """Read a JSON body.

    Raises:
        RefusedError: 400, it is not JSON; 422, it is not of this kind.
    """
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.ValidationError as error:
        raise RefusedError(422, "validation_error", _explain(str(error))) from None
    except RecursionError:
        raise RefusedError(400, "bad_request", "the body is nested too deeply") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise RefusedError(400, "bad_request", f"the body is not JSON: {error}") from None


def _explain(error: str) -> str:
    """Return an explanation of a validation error."""
    field = _FIELD.search(error)
    if field is not None and field[1] in _RULES:
        return f"{field[1]} must be {_RULES[field[1]]}"
    return f"the body does not validate: {error}"

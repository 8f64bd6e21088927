"""A lease that an agent serves: which address leads where. No I/O."""

import re
from typing import Final

from ..http.pool import ConnectionPool
from ..wire.frames import AttachLease, LocalTarget
from .target import Target, UrlRewriter, split_address

__all__ = ["NONCE_PATH", "OWN_PATH", "READY_PATH", "ServedLease", "read_nonce"]

OWN_PATH: Final = "/__synth/"
"""Below it lie the agent's own answers."""

NONCE_PATH: Final = "/__synth/nonce/"
"""Below it the agent itself answers with the rest of the path: proof that a URL leads here."""

READY_PATH: Final = "/__synth/ready"
"""There the agent itself says whether the app answers (protocol, section 4)."""

_NONCE = re.compile(r"[0-9a-fA-F]{8,128}")


class ServedLease:
    """A lease and its targets.

    Args:
        lease_id: the lease.
        public_url: where callers reach it, without any address.
        max_inflight: how many requests may be under way at the same time.
    """

    def __init__(self, lease_id: str, public_url: str, max_inflight: int) -> None:
        self.lease_id = lease_id
        self.max_inflight = max_inflight
        self.inflight = 0
        """Requests under way."""
        self.websockets = 0
        """Those that are open, or being opened; counted apart."""
        self.mounts: dict[str, tuple[UrlRewriter, ConnectionPool]] = {}
        """By address."""
        self._public_url = public_url

    def move(self, public_url: str) -> None:
        """Use another public URL from the next request on."""
        self._public_url = public_url
        for address, (mount, origin) in list(self.mounts.items()):
            self.mount(address, mount.target, origin)

    def mount(self, address: str, target: Target, origin: ConnectionPool) -> None:
        """Lead an address to a target, through these connections."""
        self.mounts[address] = UrlRewriter(self.lease_id, self._public_url, address, target), origin

    def resolve(self, path: str) -> tuple[UrlRewriter, ConnectionPool, str] | None:
        """Return where a path leads, with what the target sees of it; ``None`` for nowhere."""
        mounts = self.mounts
        address, rest = split_address(path)
        found = mounts.get(address)
        if found is None and address and "" in mounts:
            # The app's own path begins with a tilde.
            rest, found = path, mounts[""]
        if found is None and not address and len(mounts) == 1:
            (found,) = mounts.values()
        return None if found is None else (*found, rest)

    def ready_targets(self, address: str) -> list[Target]:
        """Return the apps that a question at :data:`READY_PATH` is about: that of the address, or
        all of them where it names none."""
        return [mount.target for known, (mount, _) in self.mounts.items() if address in ("", known)]

    def explain(self, path: str) -> str:
        """Return why a path leads nowhere."""
        known = ", ".join(f"/~{address}" for address in sorted(self.mounts)) or "none yet"
        return f"the lease has no target at {path[:200]}; its addresses: {known}"

    def attach(self) -> AttachLease:
        """Return the lease as an ``ATTACH`` frame names it."""
        if len(self.mounts) != 1:
            return AttachLease(self.lease_id)
        ((mount, _),) = self.mounts.values()
        return AttachLease(self.lease_id, LocalTarget(mount.target.host, mount.target.port))


def read_nonce(path: str) -> bytes:
    """Return the nonce that a path below :data:`NONCE_PATH` asks for, or nothing."""
    if not path.startswith(NONCE_PATH):
        return b""
    found = _NONCE.fullmatch(path, len(NONCE_PATH))
    return found[0].encode() if found else b""

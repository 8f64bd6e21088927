"""``synth-tunnels leases``: what hosted backends are owed.

A lease stands in the ledger from its creation to its release, so what stays there was left by a
keeper that was killed, or by a backend that was down. The next run with the same backend and key
closes it; this closes it by hand.
"""

import os
import sys
import time

from .keeper.leases.spec import is_gone, release_requests
from .keeper.ledger.ledger import (
    Entry,
    HostIdentity,
    KeeperLiveness,
    Ledger,
    hash_key,
    liveness_of,
    state_folder,
)
from .options import API_KEY_VARIABLE
from .sdk.errors import TunnelError

__all__ = ["show_leases"]


def show_leases(*, release_stale: bool) -> int:
    """List the open leases, or close those whose keeper is dead.

    Args:
        release_stale: whether to close them.

    Returns:
        The exit code: 1 if the ledger cannot be used, or a stale lease could not be closed.
    """
    ledger = Ledger(state_folder(os.environ))
    try:
        return _release_stale(ledger) if release_stale else _list(ledger)
    except OSError as error:
        print(f"cannot use the ledger: {error}", file=sys.stderr)
        return 1


def _list(ledger: Ledger) -> int:
    here = HostIdentity.here()
    entries = ledger.entries()
    for entry in entries:
        print(_describe(entry, liveness_of(entry, here)))
    if not entries:
        print("no open leases")
    return 0


def _describe(entry: Entry, state: KeeperLiveness) -> str:
    left_min = max(0.0, entry.expires_at - time.time()) / 60
    return (
        f"{entry.lease_id}  {state:7}  {entry.provider}  {entry.backend_url}  "
        f"key {entry.key_hash}  on {entry.host}  expires in {left_min:.0f} min"
    )


def _release_stale(ledger: Ledger) -> int:
    from .sdk.client import TunnelsClient

    here = HostIdentity.here()
    api_key = os.environ.get(API_KEY_VARIABLE, "").strip()
    failed = False
    for entry in ledger.entries():
        if liveness_of(entry, here) is not KeeperLiveness.STALE:
            continue
        if entry.key_hash != hash_key(api_key):
            print(
                f"{entry.lease_id}: not closed: made with another key ({entry.key_hash}); set "
                f"{API_KEY_VARIABLE} to it",
                file=sys.stderr,
            )
            failed = True
            continue
        try:
            with TunnelsClient(backend_base=entry.backend_url, retries=2) as client:
                for request in release_requests(entry.provider, entry.lease_id):
                    client.send(request)
        except TunnelError as error:
            if not is_gone(error):
                print(f"{entry.lease_id}: not closed: {error}", file=sys.stderr)
                failed = True
                continue
        ledger.remove([entry.lease_id])
        print(f"{entry.lease_id}: closed")
    return int(failed)

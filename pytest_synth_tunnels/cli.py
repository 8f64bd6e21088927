"""The command line: ``python -m pytest_synth_tunnels doctor`` checks whether tunnels work here, and
``… leases`` shows what hosted backends are owed.

A lease stands in the ledger from its creation to its release, so what stays there was left by a
keeper that was killed, or by a backend that was down. The next run with the same backend and key
closes it; this closes it by hand.
"""

import argparse
import os
import sys
import time
from collections.abc import Sequence

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
from .options import API_KEY_VARIABLE, PROVIDERS
from .sdk.errors import TunnelError

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        arguments: the command line without the program's name; by default the real one.

    Returns:
        The exit code: 1 if the doctor found a problem, or a stale lease could not be closed.
    """
    parser = argparse.ArgumentParser(prog="python -m pytest_synth_tunnels")
    commands = parser.add_subparsers(dest="command", required=True)
    leases = commands.add_parser("leases", help="list the open leases of hosted backends")
    leases.add_argument(
        "--release-stale",
        action="store_true",
        help=f"close those whose keeper is dead, with the key in {API_KEY_VARIABLE}",
    )
    doctor = commands.add_parser(
        "doctor",
        help="check backend, key, connector and ports, and make a round trip",
        description="Settings come from these options and the environment, not from an ini file.",
    )
    doctor.add_argument("--backend", help="auto, embedded, hosted or a URL")
    doctor.add_argument("--provider", help=f"{', '.join(PROVIDERS)} or an installed plugin's")
    options = parser.parse_args(arguments)
    if options.command == "doctor":
        return _examine(options.backend, options.provider)
    ledger = Ledger(state_folder(os.environ))
    try:
        return _release_stale(ledger) if options.release_stale else _list(ledger)
    except OSError as error:
        print(f"cannot use the ledger: {error}", file=sys.stderr)
        return 1


def _examine(backend: str | None, provider: str | None) -> int:
    from .doctor import Finding, examine

    def say(finding: Finding) -> None:
        print(f"{finding.verdict:8} {finding.name:11} {finding.text}", flush=True)
        if finding.hint:
            print(f"{'':8} {'':11} -> {finding.hint}", flush=True)

    try:
        healthy = examine(backend=backend, provider=provider, environ=dict(os.environ), say=say)
    except KeyboardInterrupt:  # by now its lease is given back
        return 130
    return 0 if healthy else 1


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

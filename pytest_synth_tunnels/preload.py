"""Imports, before the first test, all that a test process needs of this package.

A test may patch what an import reads, or what it leaves behind: the import would be seen by the
patch, go wrong by it, or be forgotten with it. So nothing is left to be imported in a test. It
happens while the keeper starts, which takes longer.
"""

from collections.abc import Collection

__all__ = ["preload"]


def preload(fixture_names: Collection[str] = ()) -> None:
    """Import it. Harmless if it is imported.

    Args:
        fixture_names: what the tests ask for; ``synth_serve`` alone needs more than all others.
    """
    from . import (
        hook_events,
        item_traffic,
        lease,
        listener,
        pytest_screen,
        reporting,
        run_waits,
        socket_table,
        synth_inbox,
    )
    from .keeper.ipc import client

    _ = client, hook_events, item_traffic, lease, listener, pytest_screen, reporting, run_waits
    _ = socket_table, synth_inbox
    if "synth_serve" in fixture_names:
        from . import serving

        _ = serving

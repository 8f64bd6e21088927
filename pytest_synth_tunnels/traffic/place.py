"""Where requests come, and where they go."""

from typing import Final, NamedTuple

__all__ = ["EVERYWHERE", "NOWHERE", "Place", "RecordedApp"]


class Place(NamedTuple):
    """Where a request came.

    Attributes:
        lease_id: the lease.
        address: the part of the lease's URL that names a worker or a test; may be empty.
    """

    lease_id: str
    address: str


NOWHERE: Final = Place("", "")
"""The place of what the relay could not bring to any lease."""


EVERYWHERE: Final = Place("*", "*")
"""For a watch: all places, those that are not known yet too. No lease has such an id."""


class RecordedApp(NamedTuple):
    """Where requests go.

    Attributes:
        place: where they come.
        local_url: the local server that gets them; empty where nothing of the user's does.
        name: what answers there: ``app`` or ``inbox``.
    """

    place: Place
    local_url: str
    name: str = "app"

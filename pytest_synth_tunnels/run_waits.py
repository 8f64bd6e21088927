"""What a process of a run shows while it waits for its keeper."""

from collections.abc import Callable

from ._unpatched import unpatched
from .keeper.open_waits import OpenWait, read_waits
from .keeper.process.run_directory import RunDirectory
from .wait_display import WaitDisplay

__all__ = ["RunWaits"]


class RunWaits:
    """Shows what the run waits for, on behalf of a thread that waits for the keeper: a
    :class:`~.keeper.ipc.connection.WaitListener`.

    Args:
        directory: of the run.
        display: where it is shown.
        rename: returns a text with the names that settings have there.
        now: seconds, by :func:`time.monotonic`.
    """

    def __init__(
        self,
        directory: RunDirectory,
        display: WaitDisplay,
        *,
        rename: Callable[[str], str] = str,
        now: Callable[[], float] = unpatched.monotonic,
    ) -> None:
        self._directory = directory
        self._display = display
        self._rename = rename
        self._now = now

    def waiting(self, waited_s: float) -> None:
        """Show what is waited for."""
        self._display.show(self.open_waits(waited_s))

    def open_waits(self, waited_s: float) -> list[OpenWait]:
        """Return what the run waits for, the longest wait first.

        Args:
            waited_s: how long the keeper has been waited for, where none is there yet.
        """
        if self._directory.read(self._directory.run_file) is None:
            return [OpenWait("the tunnel keeper to start", self._now() - waited_s)]
        return [
            OpenWait(self._rename(what), since_s) for what, since_s in read_waits(self._directory)
        ]

    def over(self) -> None:
        """Nothing is waited for any more."""
        self._display.end()

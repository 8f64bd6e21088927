"""What came through the tunnels of a test: for its report, its HAR file and pytest-html's page."""

import pytest

from .keeper.ipc.errors import KeeperError
from .reporting import add_har
from .session import Session
from .synth_traffic import Traffic, traffic_of_lease
from .traffic.har import HarRecord

__all__ = ["TRAFFIC", "ItemTraffic"]

TRAFFIC = pytest.StashKey[list[Traffic]]()
"""What a test was given as ``synth_traffic`` and ``synth_inbox``."""


class ItemTraffic:
    """What came to the own addresses of a test and, since it began, to its lease's own URL.

    Args:
        item: the test.
        session: of its process, which has a keeper.
    """

    def __init__(self, item: pytest.Item, session: Session) -> None:
        self._item = item
        self._session = session

    def sections(self) -> list[str]:
        """Return it for the report of a failing test, a text for each object that shows some."""
        texts = []
        try:
            own = self._item.stash.get(TRAFFIC, [])
            texts = [traffic.section() for traffic in own]
            lease = self._lease()
            if lease is not None:
                text = lease.section()
                heading = "By the lease's own URL, since this test began:\n"
                texts.append(f"{heading}{text}" if own and text else text)
        except KeeperError:
            pass  # it is told elsewhere what became of the keeper
        except Exception as error:  # a report that cannot be completed must not end the run
            texts.append(f"what came cannot be shown: {error!r}")
        return [text for text in texts if text]

    def _lease(self) -> Traffic | None:
        """Return what came to the lease's own URL; ``None`` where nothing is recorded."""
        session = self._session
        if not (session.lease_id and session.settings.traffic):
            return None
        return traffic_of_lease(session.keeper, session.lease_id, since_s=session.test_began_s)

    def _har_records(self) -> list[HarRecord]:
        """Return all of it, oldest first, with keys masked.

        Raises:
            KeeperError: the keeper is gone.
        """
        traffics = [*self._item.stash.get(TRAFFIC, []), self._lease()]
        requests = {
            request.sequence: request
            for traffic in traffics
            if traffic is not None
            for request in traffic.masked_requests()
        }
        test, worker = self._item.nodeid, self._session.worker_id
        return [HarRecord(requests[number], test, worker) for number in sorted(requests)]

    def add_to_html(self, report: pytest.TestReport) -> None:
        """Add it to the test's entry in the page of pytest-html."""
        try:
            add_har(report, self._har_records())
        except Exception:  # the section says why
            return

    def write_har(self) -> None:
        """Write the test's HAR file."""
        session = self._session
        try:
            session.har_files.write(self._item.nodeid, session.worker_id, self._har_records())
        except KeeperError:
            pass  # it is told elsewhere what became of the keeper
        except OSError as error:
            trouble = f"HAR files cannot be written to {session.settings.output}: {error}"
            if trouble not in session.trouble:
                session.trouble.append(trouble)

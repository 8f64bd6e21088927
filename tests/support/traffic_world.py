"""The traffic of a run by hand: a keeper whose records a test writes, and what looks at them."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pytest_synth_tunnels.agent.target import Target
from pytest_synth_tunnels.keeper.errors import KeeperRequestError
from pytest_synth_tunnels.keeper.ipc.client import KeeperClient
from pytest_synth_tunnels.keeper.ipc.messages import (
    Accepts,
    Done,
    GetTraffic,
    Message,
    TargetAccepts,
    TrafficAddress,
    WatchTraffic,
)
from pytest_synth_tunnels.keeper.traffic import RunTraffic
from pytest_synth_tunnels.synth_inbox import Inbox
from pytest_synth_tunnels.synth_traffic import Traffic
from pytest_synth_tunnels.traffic.masking import Masker
from pytest_synth_tunnels.traffic.place import NOWHERE, Place, RecordedApp
from pytest_synth_tunnels.traffic.recorder import RecordedRequest

from .keeper_server import KeeperServer, run_in, serving_keeper

OWN = Place("lease-1", "t1")
LEASE = Place("lease-1", "gw1")
TOKEN = "wt_0123456789"


def address(**values: Any) -> TrafficAddress:
    """Return what a keeper says of a test's address."""
    return TrafficAddress(
        **{
            "lease_id": "lease-1",
            "address": "t1",
            "own_address": "gw1",
            "public_url": "http://127.0.0.1:9",
            "loopback_url": "",
            "headers": {"X-SynthTunnel-Worker-Token": TOKEN},
            "url_secret": "",
            "ca_file": "",
            "local_url": "http://127.0.0.1:8000",
            "provider": "synthtunnel",
        }
        | values
    )


class TrafficWorld:
    """See :func:`traffic_world`."""

    def __init__(self, run_dir: Path) -> None:
        self.run = run_in(run_dir)
        self.run_traffic = RunTraffic(1_000)
        self.info = address()
        self.accepts = True
        self.app: Target | None = None
        self.asked: list[Message] = []
        self.keeper: KeeperServer
        self.client = KeeperClient(self.run)

    async def answer(self, _: object, message: Message) -> Any:
        self.asked.append(message)
        if isinstance(message, WatchTraffic):
            return self.run_traffic.watch(message, self.app)
        if isinstance(message, GetTraffic):
            return self.info
        if isinstance(message, TargetAccepts):
            return Accepts(accepts=self.accepts)
        if type(message).__name__ in ("EndTraffic", "InboxRespond"):
            return Done()
        raise KeeperRequestError("NOT_HERE", "this keeper does not know that")

    @property
    def now_s(self) -> float:
        recorder = self.run_traffic.recorder
        assert recorder is not None
        return recorder.now()

    def traffic(self, since_s: float = 0.0, **values: Any) -> Traffic:
        return Traffic(self.client, address(**values), since_s=since_s, masker=Masker())

    def inbox(self) -> Inbox:
        return Inbox(self.client, address(local_url=""), since_s=0.0, masker=Masker())

    def begin(
        self,
        method: str = "POST",
        path: str = "/",
        body: bytes = b"",
        *,
        place: Place = OWN,
        headers: str = "",
    ) -> RecordedRequest:
        """Have a request come to the app."""

        def begin() -> RecordedRequest:
            recorder = self.run_traffic.recorder
            assert recorder is not None
            head = f"{method} {path} HTTP/1.1\r\n{headers}"
            app = RecordedApp(place, "http://127.0.0.1:8000")
            request = recorder.begin(app, head, recorder.now())
            if body:
                request.take_body(body)
            request.end()
            request.reach()
            return request

        found: RecordedRequest = self.keeper.call(begin)
        return found

    def finish(self, request: RecordedRequest, status: int = 200) -> None:
        """Have the app answer a request."""

        def finish() -> None:
            request.response_started(status, [])
            request.response_ended()

        self.keeper.call(finish)

    def come(self, *arguments: Any, **named: Any) -> None:
        """Have a request come, and the app answer it; the arguments are those of ``begin``."""
        self.finish(self.begin(*arguments, **named))

    def find_no_app(self, ago_s: float = 0.0) -> None:
        """Have a request come some time ago, and find that nothing listens."""

        def find_no_app() -> None:
            recorder = self.run_traffic.recorder
            assert recorder is not None
            app = RecordedApp(OWN, "http://127.0.0.1:8000")
            recorder.begin(app, "POST /a HTTP/1.1\r\n", recorder.now() - ago_s).refused(
                502, "TUNNEL_ENDPOINT_UNREACHABLE", "connection refused, nothing listens there"
            )

        self.keeper.call(find_no_app)

    def refuse(self, path: str = "/", *, place: Place = OWN) -> None:
        """Have the tunnel answer a request."""

        def refuse() -> None:
            recorder = self.run_traffic.recorder
            assert recorder is not None
            app = RecordedApp(place, "")
            recorder.begin(app, f"POST {path} HTTP/1.1\r\n", recorder.now()).refused(
                401, "TUNNEL_AUTH_REQUIRED", "this tunnel wants the worker token"
            )

        self.keeper.call(refuse)

    @contextmanager
    def later(self, *calls: tuple[Any, ...]) -> Iterator[None]:
        """Have requests come, in a thread, as soon as somebody watches."""

        def come() -> None:
            while not self.run_traffic.log.watched:
                watched.wait(0.005)
            for arguments in calls:
                self.come(*arguments)

        watched = threading.Event()
        thread = threading.Thread(target=come)
        thread.start()
        try:
            yield
        finally:
            thread.join(20)


@contextmanager
def traffic_world(run_dir: Path) -> Iterator[TrafficWorld]:
    """Serve a keeper that tells what a test records.

    Args:
        run_dir: of the run.
    """
    world = TrafficWorld(run_dir)
    world.run_traffic.log.know(OWN)
    world.run_traffic.log.know(NOWHERE)
    with serving_keeper(world.run, world.answer) as world.keeper:
        try:
            yield world
        finally:
            world.client.close()

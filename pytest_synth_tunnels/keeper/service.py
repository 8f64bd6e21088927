"""What the keeper does for the processes of its run: it answers their requests.

Requests of different connections are answered side by side; a slow one (``WaitReady``) holds up
no other. All of it runs on the keeper's event loop, so that nothing here needs a lock.
"""

import asyncio
import functools
import logging
import time
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Mapping
from typing import TYPE_CHECKING, Any, Final, TypeVar
from urllib.parse import urlsplit

from ..agent.target import Target
from ..aio.tasks import in_thread, spawn
from ..sdk.errors import TunnelError
from ..sdk.resolve import is_loopback
from ..settings import Settings
from .app_command import AppCommand
from .backend_client import BackendClient
from .errors import KeeperRequestError
from .ipc.client_session import Answer
from .ipc.holders import Holder, Holders
from .ipc.messages import (
    Accepts,
    BackendInfo,
    CloseLease,
    Done,
    EndTraffic,
    Event,
    Expose,
    GetBackend,
    GetTraffic,
    InboxRespond,
    InspectorAddress,
    LeaseInfo,
    ListTraffic,
    Message,
    OpenAddress,
    OpenInspector,
    OpenLease,
    OpenTraffic,
    Port,
    RefreshToken,
    ReplayRequest,
    Report,
    ReservePort,
    Status,
    StatusInfo,
    TargetAccepts,
    Token,
    TrafficAddress,
    WaitReady,
    WatchTraffic,
)
from .leases.journal import Journal
from .leases.lease import HeldLease
from .leases.registry import COMMON, RELEASE_TIMEOUT_S, LeaseRegistry
from .leases.spec import SYNTHTUNNEL, choose_url_style, is_gone
from .open_waits import OpenWaits
from .ports import HOST, LOOPBACK_HINT, PortReservation, clear_time_wait, means_no_loopback
from .process.run_directory import RunDirectory
from .readiness import wait_ready
from .traffic import RunTraffic
from .transports.factory import TransportFactory

if TYPE_CHECKING:
    from .inspector.server import Inspector
    from .ledger.recorder import LedgerRecorder

__all__ = ["KeeperService"]

_log = logging.getLogger(__name__)

_MAX_WAIT_READY_S: Final = 3600.0
_MAX_EVENTS: Final = 100

_T = TypeVar("_T")


class KeeperService:
    """The keeper's work, without the sockets through which it is asked. Made on the event loop.

    Args:
        run_id: names the run, for the backend's listings.
        settings: of the run.
        environ: the environment of the command.
        cwd: where the command runs.
        backend_client: the backend, not yet started.
        ledger_recorder: where hosted leases are written down; ``None`` for the embedded backend.
        on_holder_left: called when a process has let go of its leases.
        traffic: of the run; its own by default.
        directory: where the run's processes find what is waited for; ``None`` if nobody looks.

    Attributes:
        holders: the processes that hold.
        journal: what happened to the leases, for the run's owner.
    """

    def __init__(
        self,
        *,
        run_id: str,
        settings: Settings,
        environ: Mapping[str, str],
        cwd: str,
        backend_client: BackendClient,
        ledger_recorder: "LedgerRecorder | None",
        on_holder_left: Callable[[], None],
        traffic: RunTraffic | None = None,
        directory: RunDirectory | None = None,
    ) -> None:
        self.holders = Holders(self._holder_left)
        self.journal = Journal()
        self._settings = settings
        self._backend_client = backend_client
        self._on_holder_left = on_holder_left
        self._waits = OpenWaits(directory, call_later=asyncio.get_running_loop().call_later)
        self._traffic = traffic or RunTraffic.of(settings)
        self._leases = LeaseRegistry(
            run_id=run_id,
            settings=settings,
            transports=TransportFactory(
                settings,
                backend_client,
                ledger_recorder,
                environ,
                time.time,
                self._traffic.recorder,
            ),
            on_event=self._lease_event,
            journal=self.journal,
        )
        self._inspector: Inspector | None = None
        """Made, and imported, once somebody asks for it; most runs never do."""
        self._one_target = settings.port is not None or settings.command is not None
        """All processes share one target, so that no URL has an address."""
        self._has_one_port = (
            settings.public_port is not None
            and settings.provider == SYNTHTUNNEL
            and backend_client.embedded
        )
        """The run's lease has a port that was chosen, which no two origins can have."""
        self._ports: dict[str, PortReservation] = {}
        """By address."""
        self._environ = environ
        self._cwd = cwd
        self._command: AppCommand | None = None
        self._command_started: asyncio.Task[None] | None = None
        self._command_failure: KeeperRequestError | None = None
        """Why the command ended after it had been up."""
        self._events: deque[str] = deque(maxlen=_MAX_EVENTS)
        self._finishing = False

    def start(self) -> None:
        """Open the run's lease and start the command, before anybody asks for them."""
        try:
            if self._settings.share == "run":
                self._leases.shared(COMMON, self._port(COMMON))
        except KeeperRequestError as error:
            _log.warning("%s", error)  # each request that needs the port fails with it
        if self._settings.command is not None:
            self._command_started = spawn(self._start_command(self._settings.command))

    async def _start_command(self, command: str) -> None:
        """Start the command as soon as its public URL is known.

        Raises:
            KeeperRequestError: there is no lease or no port, or the command failed.
        """
        port = self._port(COMMON)
        public_url, is_secret = None, False
        if self._settings.share == "run":
            lease = self._leases.shared(COMMON, port)
            await lease.ready()
            public_url = lease.url(COMMON)
            is_secret = lease.transport.worker_token is None and bool(urlsplit(public_url).path)
        self._command = AppCommand(
            command,
            port=port,
            public_url=public_url,
            is_secret=is_secret,
            environ=self._environ,
            cwd=self._cwd,
            timeout_s=self._settings.command_timeout_s,
            on_death=self._command_died,
        )
        await self._command.start()

    def _command_died(self, message: str) -> None:
        self._command_failure = KeeperRequestError("COMMAND_FAILED", message)
        self._events.append(message)
        _log.warning("%s", message)
        for holder in self.holders:
            holder.tell(Event(kind="failed", lease_id="", shared=True, message=message))

    # --- requests

    async def answer(self, holder: Holder, message: Message) -> Answer:
        """Answer a request of a process.

        Raises:
            KeeperRequestError: what was asked for cannot be had.
            TunnelError: the backend refused.
            ValueError: there is no such request, or its values make no sense.
        """
        handler = self._HANDLERS.get(type(message))
        if handler is None:
            raise ValueError(f"{type(message).__name__} is no request")
        if self._finishing:
            raise KeeperRequestError(
                "KEEPER_FINISHING", "the run is ending, and its tunnels with it"
            )
        return await handler(self, holder, message)

    async def _reserve_port(self, holder: Holder, _: ReservePort) -> Port:
        port = self._port(holder.address)
        # An earlier server of this process may have left connections behind.
        await in_thread(functools.partial(clear_time_wait, port))
        return Port(port=port)

    def _port(self, address: str) -> int:
        if self._settings.port is not None:
            return self._settings.port
        key = COMMON if self._one_target else address
        if key not in self._ports:
            try:
                self._ports[key] = PortReservation()
            except OSError as error:
                hint = "Set synth_tunnels_port to the port that your app is to have"
                raise KeeperRequestError(
                    "NO_LOCAL_PORT",
                    f"no port of {HOST} can be had for the app: {error.strerror}",
                    LOOPBACK_HINT if means_no_loopback(error) else hint,
                ) from None
        return self._ports[key].port

    async def _open_lease(self, holder: Holder, _: OpenLease) -> LeaseInfo:
        # What fails first is reported at once, without waiting for the other.
        info, _none = await asyncio.gather(
            self._open_address(holder, OpenAddress()), self._wait_for_command()
        )
        return info

    async def _open_address(self, holder: Holder, _: OpenAddress) -> LeaseInfo:
        port = self._port(holder.address)
        lease = self._shared_lease(holder, port)
        address = self._address_on(lease, holder)
        await self._wait_for_lease(lease, lease.open_address(address, self._target(str(port))))
        return lease.info(address)

    def _shared_lease(self, holder: Holder, port: int) -> HeldLease:
        """Return the lease that a process shares with the run.

        Raises:
            KeeperRequestError: the process would need an origin of its own on the run's one port.
        """
        is_shared = self._one_target and self._settings.share == "run"
        if self._has_one_port and holder.address != COMMON and not is_shared:
            raise KeeperRequestError(
                "ONE_PUBLIC_PORT",
                f"synth_tunnels_public_port = {self._settings.public_port} is one port, and each "
                "worker of pytest-xdist has an app and a public URL of its own",
                "Serve one app for all workers (synth_tunnels_command, or synth_tunnels_port) with "
                "synth_tunnels_share = run, run without -n, or leave the port out",
            )
        return self._leases.shared(holder.address, port)

    async def _wait_for_lease(self, lease: HeldLease, opened: Awaitable[_T]) -> _T:
        """Wait for what a lease gives once it is open, and let it be told while that takes long."""
        with self._waits.waiting(lambda: _describe(lease)):
            return await opened

    async def _wait_for_command(self) -> None:
        if self._command_started is None:
            return
        what = f"synth_tunnels_command to listen on {HOST}:{self._port(COMMON)}"
        try:
            with self._waits.waiting(lambda: what):
                await asyncio.shield(self._command_started)
        except KeeperRequestError as error:
            raise error.renewed() from None
        if self._command_failure is not None:
            raise self._command_failure.renewed()

    def _address_on(self, lease: HeldLease, holder: Holder) -> str:
        """Return a process's part of a lease's URL."""
        one = self._one_target or not self._leases.is_common(lease)
        return COMMON if one else holder.address

    async def _expose(self, holder: Holder, request: Expose) -> LeaseInfo:
        settings = self._settings
        provider = request.provider or settings.provider
        target = self._target(request.target, request.host_header, request.strip_prefix)
        embedded = self._backend_client.embedded
        require_token = request.require_token
        if require_token is None:
            require_token = settings.require_token
        if not (is_loopback(target.host) or settings.allow_remote_targets):
            raise KeeperRequestError(
                "TARGET_FORBIDDEN",
                f"{target.host} is not this machine, and a lease would open it to others",
                "Set synth_tunnels_allow_remote_targets = true if that is meant",
            )
        if provider == SYNTHTUNNEL and not (require_token or embedded):
            raise KeeperRequestError(
                "TOKEN_REQUIRED",
                "a hosted relay always wants the worker token from its callers",
                "require_token=False works with the embedded backend, and the URL of another "
                "provider wants no token: provider='ngrok', for example",
            )
        if request.ttl_s is not None and not request.ttl_s > 0:
            raise ValueError(f"ttl_s must be above 0, not {request.ttl_s:g}")
        lease = self._leases.expose(
            holder.pid,
            target,
            provider=provider,
            ttl_s=request.ttl_s,
            name=request.name,
            require_token=require_token,
            url_style=choose_url_style(
                request.url_style,
                settings.url_style if provider == settings.provider else None,
                provider=provider,
                embedded=embedded,
                has_placed_origins=settings.has_placed_origins,
            ),
        )
        try:
            await self._wait_for_lease(lease, lease.ready())
        except BaseException:
            self._leases.drop(lease)
            raise
        return lease.info(COMMON)

    def _target(
        self, target: str, host_header: str | None = None, strip_prefix: bool | None = None
    ) -> Target:
        """Return where traffic goes, and how the app sees it.

        Args:
            target: a port of this machine, or an http URL.
            host_header: as in :class:`Target`; the run's setting by default.
            strip_prefix: as in :class:`Target`; the run's setting by default.

        Raises:
            ValueError: it cannot be a target.
        """
        settings = self._settings
        if host_header is None:
            host_header = settings.host_header
        if strip_prefix is None:
            strip_prefix = settings.strip_prefix
        if target.isascii() and target.isdigit():
            return Target(HOST, int(target), host_header=host_header, strip_prefix=strip_prefix)
        return Target.from_url(target, host_header=host_header, strip_prefix=strip_prefix)

    async def _close_lease(self, holder: Holder, request: CloseLease) -> Done:
        await self._leases.close(request.lease_id, holder.pid)
        return Done()

    async def _wait_ready(self, holder: Holder, request: WaitReady) -> Done:
        lease = self._leases.find(request.lease_id)
        await lease.ready()
        address = self._address_on(lease, holder)
        target = lease.targets.target(address)
        with self._waits.waiting(lambda: f"the app at {target.host}:{target.port} to accept"):
            await wait_ready(
                public_url=lease.url(address),
                loopback_url=lease.transport.loopback_url(address),
                ssl_context=lease.transport.ssl_context,
                headers=lease.transport.headers,
                is_secret=bool(lease.transport.url_secret),
                missing_link=lease.transport.missing_link,
                target=target,
                timeout_s=min(max(request.timeout_s, 0.0), _MAX_WAIT_READY_S),
            )
        return Done()

    async def _status(self, _: Holder, request: Status) -> StatusInfo:
        lease = self._leases.find(request.lease_id)
        try:
            answer = await lease.transport.status()
        except TunnelError as error:
            if not is_gone(error):
                raise
            answer = {}
        return StatusInfo(state=lease.state.value, answer=answer)

    async def _token(self, holder: Holder, request: Token) -> LeaseInfo:
        lease = self._leases.find(request.lease_id)
        return lease.info(self._address_on(lease, holder))

    async def _refresh_token(self, holder: Holder, request: RefreshToken) -> LeaseInfo:
        lease = self._leases.find(request.lease_id)
        await lease.transport.refresh_token()
        return lease.info(self._address_on(lease, holder))

    async def _open_traffic(self, holder: Holder, request: OpenTraffic) -> TrafficAddress:
        port = self._port(holder.address)
        lease = self._shared_lease(holder, port)
        own_address = self._address_on(lease, holder)
        target = self._target(str(port))
        lease.targets.set_target(own_address, target)
        opening = self._traffic.open(lease, own_address, target, request.test, inbox=request.inbox)
        address, _ = await asyncio.gather(
            self._wait_for_lease(lease, opening), self._wait_for_command()
        )
        return address

    async def _get_traffic(self, holder: Holder, request: GetTraffic) -> TrafficAddress:
        lease = self._leases.find(request.lease_id)
        own_address = self._address_on(lease, holder)
        address = own_address if request.address is None else request.address
        return self._traffic.describe(lease, address, own_address)

    async def _end_traffic(self, _: Holder, request: EndTraffic) -> Done:
        self._traffic.end_test(request.lease_id, request.address)
        return Done()

    async def _target_accepts(self, _: Holder, request: TargetAccepts) -> Accepts:
        lease = self._leases.find(request.lease_id)
        return Accepts(accepts=await self._traffic.accepts(lease, request.address))

    async def _inbox_respond(self, _: Holder, request: InboxRespond) -> Done:
        self._traffic.respond(request)
        return Done()

    async def _watch_traffic(self, _: Holder, request: WatchTraffic) -> AsyncGenerator[bytes, None]:
        return self._traffic.watch(request, self._app_of(request))

    def _app_of(self, request: WatchTraffic) -> Target | None:
        """Return where the requests of a watch's first place go; ``None`` if nobody waits, or its
        address is closed."""
        if request.timeout_s is None or not request.places:
            return None
        lease_id, address, *_ = request.places[0]
        try:
            return self._leases.find(lease_id).targets.target(address)
        except KeeperRequestError:
            return None

    async def _list_traffic(self, _: Holder, __: ListTraffic) -> AsyncGenerator[bytes, None]:
        return self._traffic.list_all()

    async def _replay(self, _: Holder, request: ReplayRequest) -> AsyncGenerator[bytes, None]:
        recorded = self._traffic.find(request.sequence)
        lease = self._leases.find(recorded.place.lease_id)
        return self._traffic.replay(recorded, lease)

    async def _open_inspector(self, _: Holder, request: OpenInspector) -> InspectorAddress:
        if not all(isinstance(name, str) for name in request.masked):
            raise ValueError("masked must be a list of names")
        if self._inspector is None:
            from .inspector.server import Inspector

            self._inspector = Inspector(self._traffic, self._leases)
        return InspectorAddress(url=await self._inspector.open(request.masked))

    async def _backend(self, _: Holder, __: GetBackend) -> BackendInfo:
        await self._leases.started()
        backend_client = self._backend_client
        return BackendInfo(
            url=backend_client.url, api_key=backend_client.api_key, embedded=backend_client.embedded
        )

    _HANDLERS: Mapping[type[Message], Callable[..., Coroutine[Any, Any, Answer]]] = {
        ReservePort: _reserve_port,
        OpenAddress: _open_address,
        OpenLease: _open_lease,
        Expose: _expose,
        CloseLease: _close_lease,
        WaitReady: _wait_ready,
        Status: _status,
        Token: _token,
        RefreshToken: _refresh_token,
        GetBackend: _backend,
        OpenTraffic: _open_traffic,
        GetTraffic: _get_traffic,
        EndTraffic: _end_traffic,
        TargetAccepts: _target_accepts,
        InboxRespond: _inbox_respond,
        WatchTraffic: _watch_traffic,
        ListTraffic: _list_traffic,
        ReplayRequest: _replay,
        OpenInspector: _open_inspector,
    }

    # --- what happens by itself

    def _lease_event(self, lease: HeldLease, kind: str, message: str) -> None:
        """Tell the processes that use a lease what happened to it."""
        _log.warning("%s", message)
        self._events.append(message)
        if kind == "lost":
            self.journal.lost(lease, message)
        event = Event(
            kind=kind,
            lease_id=lease.lease_id,
            shared=self._leases.is_shared(lease),
            message=message,
        )
        for holder in self.holders:
            if self._leases.is_used_by(lease, holder.pid, holder.address):
                holder.tell(event)

    def _holder_left(self, holder: Holder) -> None:
        """Let go of what a process held, when its last connection has closed or it has died."""
        self._leases.leave(holder.pid)
        # A forked child has its parent's address, and may outlive it.
        if not self.holders.has_address(holder.address):
            self._leases.vacate(holder.address)
            if holder.address != COMMON and holder.address in self._ports:
                self._ports.pop(holder.address).close()
        self._on_holder_left()

    async def finish(self) -> Report:
        """Release everything, within some ten seconds.

        Returns:
            What the run did.
        """
        self._finishing = True
        late = self._traffic.report()
        ending: list[asyncio.Task[Any]] = [
            spawn(self._leases.finish(RELEASE_TIMEOUT_S + 1)),
            spawn(self._traffic.aclose()),
        ]
        if self._inspector is not None:
            ending.append(spawn(self._inspector.aclose()))
        if self._command_started is not None:
            self._command_started.cancel()
            ending.append(self._command_started)
        if self._command is not None:
            ending.append(spawn(self._command.stop()))
        with self._waits.waiting(lambda: "leases to be released"):
            await asyncio.wait(ending, timeout=2 * RELEASE_TIMEOUT_S)
        for reservation in self._ports.values():
            reservation.close()
        return Report(
            created=self._leases.created,
            released=self._leases.released,
            events=list(self._events),
            unreleased=self._leases.unreleased,
            public=self._leases.public,
            traffic=late,
            lease_events=self.journal.drain(),
        )


def _describe(lease: HeldLease) -> str:
    """Return what whoever waits for a lease waits for."""
    transport = lease.transport
    if transport.provider != SYNTHTUNNEL and lease.lease_id:
        return f"the connector of {transport.provider}"
    of = "" if transport.provider == SYNTHTUNNEL else f" for {transport.provider}"
    backend = "the embedded backend" if transport.embedded else transport.backend_url
    return f"a lease{of} from {backend}"

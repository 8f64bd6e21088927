"""The backend as the keeper sees it: calls, and a connection for each lease's agent.

:class:`EmbeddedBackendClient` carries the backend in this process and hands frames over in memory;
:class:`HostedBackendClient` speaks HTTP and WebSocket. What either needs
is imported when it starts, because an HTTP client costs more than the whole embedded backend.
"""

import asyncio
import os
import secrets
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, Protocol

from ..agent.agent import Agent
from ..aio.tasks import in_thread
from ..options import API_KEY_VARIABLE
from ..sdk.errors import TunnelError
from ..sdk.requests import Request
from ..settings import Settings
from ..traffic.recorder import Recorder
from .errors import KeeperRequestError
from .ports import HOST, LOOPBACK_HINT, means_no_loopback

if TYPE_CHECKING:
    import ssl

    from ..backend.binding import Binding
    from ..backend.origins import OriginUrls
    from ..backend.server import Backend
    from ..sdk.client import TunnelsClient

__all__ = ["Attachment", "BackendClient", "EmbeddedBackendClient", "HostedBackendClient"]

_CALL_TIMEOUT_S: Final = 15.0
_RETRIES: Final = 2

OnChange = Callable[[bool, str], None]
"""Called with whether the agent is connected, and if not, why."""

OnRefused = Callable[[str], None]
"""Called with the reason why the relay will never take the agent."""


class Attachment(Protocol):
    """An agent's connection to the relay, or the attempt to have one."""

    async def close(self) -> None:
        """End it."""


class BackendClient(Protocol):
    """A backend.

    Attributes:
        url: its origin, for people; empty until started.
        api_key: the key that it accepts; empty until started.
        embedded: whether it runs in this process.
        ca_file: the certificate of the authority that vouches for its origins, if they are https;
            else empty.
        ssl_context: what their certificate is checked with; ``None`` for http.
    """

    url: str
    api_key: str
    embedded: bool
    ca_file: str
    ssl_context: "ssl.SSLContext | None"

    async def start(self) -> None:
        """Start the backend or its client; calls come after that.

        Raises:
            TunnelError: there is no key, or the URL cannot be used.
            KeeperRequestError: the embedded backend cannot listen.
        """

    def client_id(self) -> str:
        """Return the ``client_instance_id`` that leases are asked for with."""

    async def call(self, request: Request) -> Any:
        """Make a call and return its answer.

        Raises:
            TunnelError: it failed.
        """

    def call_from_thread(self, request: Request) -> Any:
        """Make a call from a thread, which is blocked, and return its answer.

        Raises:
            TunnelError: it failed.
        """

    async def attach(
        self,
        lease_id: str,
        agent: Agent,
        url: str,
        token: str,
        *,
        on_change: OnChange,
        on_refused: OnRefused,
    ) -> Attachment:
        """Connect a lease's agent to the relay, without waiting for success.

        Args:
            lease_id: the lease.
            agent: serves it.
            url: the relay's WebSocket, as the lease says.
            token: the lease's agent token.
            on_change: see :data:`OnChange`.
            on_refused: see :data:`OnRefused`.
        """

    async def open_origin(
        self, lease_id: str, address: str, *, permanent: bool, port: int | None
    ) -> "OriginUrls":
        """Open an origin of a lease's own (see :meth:`.backend.server.Backend.open_origin`).

        Args:
            lease_id: the lease.
            address: the address of the lease that answers there.
            permanent: keep it while the lease lives, whatever else needs room.
            port: the port that it is to have; ``None`` for any free one.

        Returns:
            Its URLs.

        Raises:
            TunnelError: there is no room for another, or the backend has no origins.
        """

    def end_origin(self, lease_id: str, address: str, reason: str) -> None:
        """Answer 410 at an origin from now on.

        Args:
            lease_id: the lease.
            address: the address of the lease that answered there.
            reason: for callers, as the end of a sentence.
        """

    async def close(self) -> None:
        """Stop the backend or its client."""


class EmbeddedBackendClient:
    """The backend in the keeper's own process.

    Args:
        request_timeout_s: how long a caller waits for the app, in seconds.
        recorder: records what the relay answers itself; ``None`` to record nothing.
        bind: where the leases' origins listen (see :func:`..backend.binding.resolve_binding`).
        public_host: the host that their URLs name.
        tls: whether they speak https.
        folder: where the certificate of https' authority is written; ``None`` for nowhere.
    """

    embedded = True

    def __init__(
        self,
        request_timeout_s: float,
        recorder: Recorder | None = None,
        *,
        bind: str = HOST,
        public_host: str | None = None,
        tls: bool = False,
        folder: str | None = None,
    ) -> None:
        self._request_timeout_s = request_timeout_s
        self._tls = tls
        self._folder = folder
        self.ca_file = ""
        self.ssl_context: ssl.SSLContext | None = None
        self._recorder = recorder
        self._bind = bind
        self._public_host = public_host
        self.url = ""
        self.api_key = ""
        self._backend: Backend | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._client_id = f"session-{secrets.token_hex(16)}"

    @classmethod
    def of(
        cls, settings: Settings, recorder: Recorder | None = None, folder: str | None = None
    ) -> "EmbeddedBackendClient":
        """Return the backend of a run with these settings, not yet started."""
        return cls(
            settings.request_timeout_s,
            recorder,
            bind=settings.bind,
            public_host=settings.public_host,
            tls=settings.tls,
            folder=folder,
        )

    async def start(self) -> None:
        from ..backend.binding import resolve_binding
        from ..backend.server import Backend

        self._loop = asyncio.get_running_loop()
        try:
            binding = resolve_binding(self._bind, self._public_host)
        except ValueError as error:
            raise KeeperRequestError("BIND_INVALID", f"synth_tunnels_bind: {error}") from None
        if self._tls:
            binding = await self._secure(binding)
        backend = Backend(
            request_timeout_s=self._request_timeout_s, recorder=self._recorder, binding=binding
        )
        try:
            await backend.start()
        except OSError as error:
            raise KeeperRequestError(
                "BACKEND_NOT_STARTED",
                f"the embedded backend cannot listen on {HOST}: {error.strerror or error}",
                LOOPBACK_HINT if means_no_loopback(error) else "",
            ) from None
        self._backend = backend
        self.url, self.api_key = backend.url, backend.api_key

    async def _secure(self, binding: "Binding") -> "Binding":
        """Return a binding with certificates of its own.

        Raises:
            KeeperRequestError: none can be made.
        """
        from .certificates import make_certificates

        hosts = [binding.public_host, binding.near_address, HOST, "::1", "localhost"]
        made = await in_thread(lambda: make_certificates(hosts, self._folder))
        self.ca_file, self.ssl_context = made.ca_file, made.client_context
        return replace(binding, ssl_context=made.server_context)

    def client_id(self) -> str:
        # Not the machine's: a run with the embedded backend writes no file outside its directory.
        return self._client_id

    @property
    def _started(self) -> "Backend":
        if self._backend is None:
            raise RuntimeError("the embedded backend is not running")
        return self._backend

    async def call(self, request: Request) -> Any:
        return self._started.call(request)

    def call_from_thread(self, request: Request) -> Any:
        if self._loop is None:
            raise RuntimeError("the embedded backend is not running")
        answer: Future[Any] = Future()

        def call() -> None:
            try:
                answer.set_result(self._started.call(request))
            except Exception as error:
                answer.set_exception(error)

        self._loop.call_soon_threadsafe(call)
        return answer.result(_CALL_TIMEOUT_S)

    async def attach(
        self,
        lease_id: str,
        agent: Agent,
        url: str,
        token: str,
        *,
        on_change: OnChange,
        on_refused: OnRefused,
    ) -> Attachment:
        attachment = _InProcessAttachment(self._started, lease_id, agent, on_change)
        attachment.begin(token)
        return attachment

    async def open_origin(
        self, lease_id: str, address: str, *, permanent: bool, port: int | None
    ) -> "OriginUrls":
        return await self._started.open_origin(lease_id, address, permanent=permanent, port=port)

    def end_origin(self, lease_id: str, address: str, reason: str) -> None:
        self._started.end_origin(lease_id, address, reason)

    async def close(self) -> None:
        backend, self._backend = self._backend, None
        if backend is not None:
            await backend.close()


class _InProcessAttachment:
    """A link in memory, which ends with its agent or its lease, and is made again when the lease
    has another agent token."""

    def __init__(
        self, backend: "Backend", lease_id: str, agent: Agent, on_change: OnChange
    ) -> None:
        self._backend = backend
        self._lease_id = lease_id
        self._agent = agent
        self._on_change = on_change
        self._token = ""
        self._closed = False

    def begin(self, token: str) -> None:
        """Attach.

        Raises:
            TunnelError: the lease is over, or another token's.
        """
        self._token = token
        self._backend.attach(self._lease_id, self._agent, token, on_lost=self._lost)
        self._on_change(True, "")

    async def close(self) -> None:
        self._closed = True

    def _lost(self, reason: str) -> None:
        if not self._closed:
            self._on_change(False, reason)
            # Not from here: the relay is still handling the loss.
            asyncio.get_running_loop().call_soon(self._attach_again)

    def _attach_again(self) -> None:
        token = self._backend.agent_token(self._lease_id)
        # With the same token another agent took over, which somebody wanted.
        if not self._closed and token is not None and token != self._token:
            self.begin(token)


class HostedBackendClient:
    """A backend elsewhere.

    Args:
        url: its origin.
    """

    embedded = False
    ca_file = ""
    ssl_context: "ssl.SSLContext | None" = None

    def __init__(self, url: str) -> None:
        self.url = url
        self.api_key = ""
        self._client: TunnelsClient | None = None

    async def start(self) -> None:
        self._client = await in_thread(self._make_client)
        self.url, self.api_key = self._client.backend_base, self._client.api_key
        # Child processes need no key, and this process has read it.
        os.environ.pop(API_KEY_VARIABLE, None)

    def _make_client(self) -> "TunnelsClient":
        from ..sdk.client import TunnelsClient

        return TunnelsClient(backend_base=self.url, timeout=_CALL_TIMEOUT_S, retries=_RETRIES)

    def client_id(self) -> str:
        from ..sdk.identity import client_instance_id

        return client_instance_id()

    async def call(self, request: Request) -> Any:
        return await in_thread(lambda: self.call_from_thread(request))

    def call_from_thread(self, request: Request) -> Any:
        if self._client is None:
            raise RuntimeError("the client of the hosted backend is not running")
        return self._client.send(request)

    async def attach(
        self,
        lease_id: str,
        agent: Agent,
        url: str,
        token: str,
        *,
        on_change: OnChange,
        on_refused: OnRefused,
    ) -> Attachment:
        from ..agent.dialer import Dialer

        dialer = Dialer(agent, url, token, on_change=on_change, on_fatal=on_refused)
        await dialer.start()
        return dialer

    async def open_origin(
        self, lease_id: str, address: str, *, permanent: bool, port: int | None
    ) -> "OriginUrls":
        raise TunnelError("a hosted backend gives each lease a path, and no origin of its own")

    def end_origin(self, lease_id: str, address: str, reason: str) -> None:
        pass  # there is none

    async def close(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            client.close()

"""What a test holds: a lease, its URL and its tokens."""

from collections.abc import Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self

from ._unpatched import unpatched
from .keeper.ipc.client import KeeperClient
from .keeper.ipc.errors import KeeperError
from .keeper.ipc.messages import (
    CloseLease,
    Done,
    Expose,
    LeaseInfo,
    RefreshToken,
    Status,
    StatusInfo,
    Token,
    WaitReady,
)
from .public_url import url_of
from .sdk.models import Secret

if TYPE_CHECKING:
    import ssl
    from datetime import datetime

    from .synth_traffic import Traffic

__all__ = ["ExposedLease", "Lease", "expose"]

_MAX_WAIT_S = 3600


class Lease:
    """A process's handle on a lease that the keeper holds.

    Attributes:
        lease_id: the backend's name for it.
        local_host: the host that the traffic goes to.
        local_port: the port that the traffic goes to.
        provider: what gives it its public URL: ``synthtunnel``, ``ngrok``, ``cloudflared``…
        backend: the backend's URL.
    """

    def __init__(self, keeper: KeeperClient, info: LeaseInfo) -> None:
        self._keeper = keeper
        self._info = info
        self.lease_id = info.lease_id
        self.local_host = info.local_host
        self.local_port = info.local_port
        self.provider = info.provider
        self.backend = info.backend

    def __repr__(self) -> str:
        target = f"{self.local_host}:{self.local_port}"
        url = "" if self._info.url_secret else f" {self._info.public_url}"
        return f"<{type(self).__name__} {self.lease_id}{url} -> {target}>"

    def _current(self) -> LeaseInfo:
        __tracebackhide__ = True
        return self._keeper.ask(Token(lease_id=self.lease_id), LeaseInfo)

    def _lasting(self) -> LeaseInfo:
        """The same where something else than the token may have changed meanwhile."""
        __tracebackhide__ = True
        return self._info if self.provider == "synthtunnel" else self._current()

    @property
    def public_url(self) -> str:
        """What a caller needs to know, without a trailing slash. With the embedded backend it is
        an origin (``http://127.0.0.1:`` and a port, or the host that ``synth_tunnels_public_host``
        names), under xdist one for each worker; elsewhere it has a path, under xdist with this
        worker's address (``…/~gw1``). With another provider than ``synthtunnel`` a long run may see
        it change: take it anew for each call.

        Raises:
            KeeperError: the lease or its keeper is gone; not with ``synthtunnel``.
        """
        __tracebackhide__ = True
        return self._lasting().public_url

    @property
    def expires_at(self) -> "datetime":
        """When the backend ends the lease by itself, with a time zone; with another provider than
        ``synthtunnel`` the keeper puts it off while the run lasts.

        Raises:
            KeeperError: the lease or its keeper is gone; not with ``synthtunnel``.
        """
        __tracebackhide__ = True
        return unpatched.datetime.fromisoformat(self._lasting().expires_at)

    @property
    def worker_token(self) -> str:
        """The token in force that callers must send; empty where the URL alone is enough. It
        never shows in a ``repr``.

        Raises:
            KeeperError: the lease or its keeper is gone.
        """
        __tracebackhide__ = True
        return Secret(self._current().worker_token or "")

    @property
    def headers(self) -> Mapping[str, str]:
        """What a caller sends along: the worker token, in a header of its own, so that the
        caller's ``Authorization`` is left to the app (protocol, section 2); or what the public
        edge of another provider wants; or nothing, where the URL is enough.

        Raises:
            KeeperError: the lease or its keeper is gone.
        """
        __tracebackhide__ = True
        return {name: Secret(value) for name, value in self._current().headers.items()}

    def url(self, path: str = "/") -> str:
        """Return the public URL of a path of the app.

        Args:
            path: with or without its leading slash; a query may follow. Spaces and what is not
                ASCII are percent-encoded.

        Raises:
            ValueError: ``path`` has a host or a fragment.
            KeeperError: as :attr:`public_url`.
        """
        __tracebackhide__ = True
        return url_of(self.public_url, path)

    def loopback_url(self, path: str = "/") -> str:
        """Return the URL of a path of the app for callers on this machine, which is through the
        same tunnel: where ``synth_tunnels_public_host`` names a host that only others know, such
        as ``host.docker.internal``, it names the address that is listened on instead. Elsewhere it
        is :meth:`url`.

        Args:
            path: as of :meth:`url`.

        Raises:
            ValueError: ``path`` has a host or a fragment.
            KeeperError: as :attr:`public_url`.
        """
        __tracebackhide__ = True
        info = self._lasting()
        return url_of(info.loopback_url or info.public_url, path)

    @property
    def ca_file(self) -> str | None:
        """With ``synth_tunnels_tls``, the file with the certificate of the authority that made this
        run's certificates, in PEM: what callers trust instead of the world's authorities. ``None``
        where they need no such file. It is removed with the run.
        """
        return self._info.ca_file or None

    def ssl_context(self) -> "ssl.SSLContext":
        """Return a new context for callers in Python, which checks certificates: against
        :attr:`ca_file` where there is one, else against the authorities that the system trusts."""
        import ssl

        return ssl.create_default_context(cafile=self.ca_file)

    def wait_ready(self, timeout_s: float = 30.0) -> None:
        """Wait until a nonce has come through the public URL and the app accepts.

        Args:
            timeout_s: how long to wait, in seconds, up to an hour.

        Raises:
            ValueError: ``timeout_s`` is not such a number.
            KeeperError: it is not ready in time; the message says which link is missing.
        """
        __tracebackhide__ = True
        _check_timeout(timeout_s)
        self._keeper.ask(WaitReady(lease_id=self.lease_id, timeout_s=timeout_s), Done, timeout_s)

    async def wait_ready_async(self, timeout_s: float = 30.0) -> None:
        """The same as :meth:`wait_ready`, for asyncio and trio, without a thread."""
        __tracebackhide__ = True
        import anyio

        _check_timeout(timeout_s)
        connection = self._keeper.connect()
        try:
            connection.send(WaitReady(lease_id=self.lease_id, timeout_s=timeout_s))
            with anyio.fail_after(timeout_s + 5):
                while connection.poll(Done) is None:
                    await anyio.wait_readable(connection.fileno())
        except TimeoutError:
            raise KeeperError(
                f"the keeper did not say within {timeout_s:g} s whether the lease is ready",
                code="KEEPER_TIMEOUT",
            ) from None
        except OSError as error:
            raise self._keeper.explain(error) from None
        finally:
            connection.close()

    def status(self) -> dict[str, Any]:
        """Return what the backend says of the lease, and the keeper's own ``state``.

        Raises:
            KeeperError: the lease or its keeper is gone, or the backend does not answer.
        """
        __tracebackhide__ = True
        found = self._keeper.ask(Status(lease_id=self.lease_id), StatusInfo)
        return {**found.answer, "state": found.state}

    def refresh_worker_token(self) -> str:
        """Rotate the worker token, for all that share this lease, and return the new one.

        Raises:
            KeeperError: the lease or its keeper is gone, it has no worker token, or the backend
                refuses.
        """
        __tracebackhide__ = True
        info = self._keeper.ask(RefreshToken(lease_id=self.lease_id), LeaseInfo)
        return Secret(info.worker_token or "")

    def close(self) -> None:
        """Refuse: other tests and workers use this lease, and it is released with the run.

        Raises:
            KeeperError: always.
        """
        __tracebackhide__ = True
        raise KeeperError(
            "the run's lease is shared by all tests and workers, and is released when the run ends",
            code="LEASE_SHARED",
            hint="For a lease that a test may close, use synth_expose",
        )


def _check_timeout(timeout_s: float) -> None:
    if not (isinstance(timeout_s, int | float) and 0 <= timeout_s <= _MAX_WAIT_S):
        raise ValueError(
            f"timeout_s must be a number of seconds from 0 to {_MAX_WAIT_S}, not {timeout_s!r}"
        )


class ExposedLease(Lease):
    """A lease of one's own, from ``synth_expose``; also a context manager that closes it."""

    def __init__(self, keeper: KeeperClient, info: LeaseInfo) -> None:
        super().__init__(keeper, info)
        self._traffic: Traffic | None = None
        self._lock = unpatched.allocate_lock()
        """Guards the making of ``_traffic``, which is made once."""

    @property
    def traffic(self) -> "Traffic":
        """What came to this lease so far, and waits for it: the same as ``synth_traffic`` is for
        a test.

        Raises:
            KeeperError: the lease is over, or nothing is recorded.
        """
        __tracebackhide__ = True
        from .synth_traffic import traffic_of_lease

        with self._lock:
            if self._traffic is None:
                self._traffic = traffic_of_lease(self._keeper, self.lease_id)
            return self._traffic

    def close(self) -> None:
        """Release it; a second time is harmless.

        Raises:
            KeeperError: the keeper is gone, or the backend does not answer.
        """
        __tracebackhide__ = True
        self._keeper.ask(CloseLease(lease_id=self.lease_id), Done)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def expose(
    keeper: KeeperClient,
    target: int | str,
    *,
    provider: str | None = None,
    ttl_s: float | None = None,
    name: str | None = None,
    require_token: bool | None = None,
    url_style: Literal["root", "path"] | None = None,
    host_header: str | None = None,
    strip_prefix: bool | None = None,
) -> ExposedLease:
    """Open a lease of its own for a port or a URL: what ``synth_expose`` calls.

    Args:
        keeper: opens and holds it.
        target: as all that follows, see :class:`.fixture_types.SynthExpose`, which also says what
            is raised.
        provider: see there.
        ttl_s: see there.
        name: see there.
        require_token: see there.
        url_style: see there.
        host_header: see there.
        strip_prefix: see there.
    """
    __tracebackhide__ = True
    request = Expose(
        target=_port_or_url(target),
        provider=provider,
        ttl_s=ttl_s,
        name=name,
        require_token=require_token,
        url_style=url_style,
        host_header=host_header,
        strip_prefix=strip_prefix,
    )
    return ExposedLease(keeper, keeper.ask(request, LeaseInfo))


def _port_or_url(target: object) -> str:
    """Return a target as text: a port's number, or the URL as it was given."""
    port = target.strip() if isinstance(target, str) else target
    if isinstance(port, str) and port.isascii() and port.isdigit():
        port = int(port)
    if isinstance(port, float) and port.is_integer():
        port = int(port)
    if isinstance(port, int) and not isinstance(port, bool):
        if not 1 <= port <= 65_535:
            raise ValueError(f"target must be a port from 1 to 65535, not {port}")
        return str(port)
    if not isinstance(target, str):
        raise TypeError(
            "target must be a port (int) or a URL (str) such as 'http://localhost:8000', not "
            f"{target!r} ({type(target).__name__})"
        )
    return target

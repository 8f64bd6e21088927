"""What the doctor looks at: each check returns what it found, or raises what is wrong."""

import asyncio
import os
import secrets
import shutil
import socket
import ssl
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from socketserver import ThreadingTCPServer
from typing import Any, Final, TypeVar

import httpx

from ..aio.tasks import in_thread
from ..connectors.base import ConnectorError
from ..connectors.cloudflared import HOW_TO_GET
from ..connectors.registry import load
from ..environment import allowed_environment
from ..keeper.backend_client import BackendClient
from ..keeper.ipc.holders import Holder
from ..keeper.ipc.messages import (
    CloseLease,
    Done,
    Expose,
    GetBackend,
    LeaseInfo,
    Message,
    WaitReady,
)
from ..keeper.leases.spec import SYNTHTUNNEL
from ..keeper.ports import HOST, is_taken
from ..keeper.service import KeeperService
from ..keeper.transports.provider_route import ACCOUNTS, connector_name
from ..options import API_KEY_VARIABLE
from ..sdk import requests
from ..sdk.hinted_error import HintedError
from ..sdk.models import GATEWAY_PORT
from ..sdk.resolve import is_loopback
from ..settings import Settings

__all__ = ["Checks", "ProblemError"]

_READY_TIMEOUT_S: Final = 45.0
_CALL_TIMEOUT_S: Final = 15.0
_CONNECT_TIMEOUT_S: Final = 2.0
_VERSION_TIMEOUT_S: Final = 10.0
_LEASE_TTL_S: Final = 90.0

_M = TypeVar("_M", bound=Message)


class ProblemError(HintedError):
    """A check found a problem.

    Args:
        message: what is wrong, for people, without secrets.
        hint: what to do about it.
    """

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__("PROBLEM", message, hint)


class Checks:
    """The checks of one run's settings.

    Args:
        settings: of the run.
        environ: the environment.
        service: the keeper's, started.
        backend_client: its backend.
    """

    def __init__(
        self,
        settings: Settings,
        environ: Mapping[str, str],
        service: KeeperService,
        backend_client: BackendClient,
    ) -> None:
        self._settings = settings
        self._environ = environ
        self._service = service
        self._backend_client = backend_client
        self._holder = Holder(os.getpid(), "")
        self._embedded = settings.backend_url is None
        self._connector = connector_name(settings.provider, embedded=self._embedded)

    async def _ask(self, message: Message, answer: type[_M]) -> _M:
        found = await self._service.answer(self._holder, message)
        assert isinstance(found, answer)  # noqa: S101 - the keeper's own promise
        return found

    async def settings(self) -> str:
        """Return the settings in use, and their sources."""
        settings = self._settings
        parts = [
            f"{settings.backend_url or 'embedded'} backend",
            f"provider {settings.provider}",
            *(f"{name} from {source}" for name, source in settings.sources.items()),
        ]
        return f"{', '.join(parts)} (pytest's ini file is not read)"

    async def key(self) -> str:
        """Check that an API key is set where one is needed; the key is not shown."""
        if self._embedded:
            return "the embedded backend needs none"
        if not self._environ.get(API_KEY_VARIABLE, "").strip():
            raise ProblemError(
                f"${API_KEY_VARIABLE} is not set",
                "Set it to your Synth API key, or use the embedded backend",
            )
        return f"from ${API_KEY_VARIABLE}"

    async def backend(self) -> str:
        """Check that the backend answers, takes the key and serves the provider."""
        backend_client = self._backend_client
        await self._service.answer(self._holder, GetBackend())  # returns when it has started
        began = time.perf_counter()
        health: Mapping[str, Any] = await backend_client.call(requests.health())
        took_ms = (time.perf_counter() - began) * 1000
        await backend_client.call(requests.list_leases())
        served = [str(name) for name in health.get("providers") or ()]
        provider = self._settings.provider
        is_its_own = provider in (SYNTHTUNNEL, *ACCOUNTS)
        if is_its_own and served and provider not in served:
            raise ProblemError(
                f"{backend_client.url} serves no {provider}",
                f"Set synth_tunnels_provider to one of {', '.join(served)}",
            )
        return f"{backend_client.url} answers in {took_ms:.0f} ms, and takes the key"

    async def connector(self) -> str:
        """Check that the program or package that carries the provider's leases is installed."""
        if self._connector == SYNTHTUNNEL:
            return "synthtunnel needs none"
        load(self._connector, self._settings.connectors)
        if self._connector == "loopback":
            return f"the embedded backend carries {self._settings.provider} leases itself"
        if self._connector in ("cloudflared", "cloudflared-quick"):
            program = self._settings.cloudflared or "cloudflared"
            return await _cloudflared_version(program, allowed_environment(self._environ))
        if self._connector == "ngrok":
            from ..connectors.ngrok import package_version

            return f"the package ngrok {package_version()}; the backend's lease has its authtoken"
        return f"{self._connector} can be imported"

    @property
    def _brings_url(self) -> bool:
        """Whether the connector makes the public URL itself, and so needs no lease of the
        backend."""
        if self._connector == SYNTHTUNNEL:
            return False
        try:
            return load(self._connector, self._settings.connectors).brings_url
        except ConnectorError:  # the connector's own check reports it
            return True

    async def ports(self) -> str:
        """Check that this machine can reach itself, and that the gateway's port is free."""
        try:
            with socket.create_server((HOST, 0)) as listener:
                socket.create_connection(listener.getsockname(), _CONNECT_TIMEOUT_S).close()
        except OSError as error:
            raise ProblemError(
                f"{HOST} cannot be listened on, or not be reached: {error}",
                "Look for a sandbox or a firewall that keeps programs from their own machine",
            ) from None
        if self._embedded or self._connector == SYNTHTUNNEL or self._brings_url:
            return f"{HOST} can be listened on and reached"
        if is_taken(GATEWAY_PORT):
            raise ProblemError(
                f"{HOST}:{GATEWAY_PORT}, where the provider brings the traffic, is taken",
                "Stop what listens there, another test run with this provider perhaps",
            )
        return f"{HOST}:{GATEWAY_PORT}, where the provider brings the traffic, is free"

    async def round_trip(self) -> str:
        """Open a lease, call a small app through its public URL, and give it back."""
        proof = secrets.token_hex(16)
        began = time.perf_counter()
        with _serving(proof) as port:
            request = Expose(
                target=f"http://{HOST}:{port}",
                provider=None,
                ttl_s=_LEASE_TTL_S,
                name="doctor",
                require_token=None,
                url_style=None,
                host_header=None,
                strip_prefix=None,
            )
            lease = await self._ask(request, LeaseInfo)
            ready = WaitReady(lease_id=lease.lease_id, timeout_s=_READY_TIMEOUT_S)
            await self._ask(ready, Done)
            opened_s = time.perf_counter() - began
            ssl_context = self._backend_client.ssl_context
            status, body = await in_thread(lambda: _get(lease, ssl_context))
            took_ms = (time.perf_counter() - began - opened_s) * 1000
            if status != 200 or body != proof:
                raise ProblemError(f"the public URL answered {status}, and not what the app said")
            await self._ask(CloseLease(lease_id=lease.lease_id), Done)
        return (
            f"lease open in {opened_s:.1f} s, a request and its answer {took_ms:.0f} ms, released"
        )


@contextmanager
def _serving(answer: str) -> Iterator[int]:
    """Serve an app that answers every GET with the same text, and yield its port."""

    class App(BaseHTTPRequestHandler):
        timeout = _CONNECT_TIMEOUT_S

        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(answer.encode())

        def log_message(self, *_: object) -> None: ...

    with ThreadingTCPServer((HOST, 0), App) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()


def _get(lease: LeaseInfo, ssl_context: ssl.SSLContext | None) -> tuple[int, str]:
    """Call the app by the URL for callers on this machine, if there is one."""
    url = httpx.URL(f"{lease.loopback_url or lease.public_url}/synth-tunnels-doctor")
    try:
        answer = httpx.get(
            url,
            headers=lease.headers,
            timeout=_CALL_TIMEOUT_S,
            trust_env=not (lease.loopback_url or is_loopback(url.host)),
            verify=ssl_context or True,
        )
    except httpx.HTTPError as error:
        reason = str(error) or type(error).__name__
        raise ProblemError(f"the public URL cannot be reached: {reason}") from None
    return answer.status_code, answer.text


async def _cloudflared_version(program: str, environ: Mapping[str, str]) -> str:
    path = shutil.which(program, path=environ.get("PATH", os.defpath))
    if path is None:
        raise ProblemError(f"there is no program {program}", HOW_TO_GET)
    try:
        process = await asyncio.create_subprocess_exec(
            path,
            "--version",
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            env=environ,
        )
    except OSError as error:
        raise ProblemError(f"{path} cannot be started: {error}", HOW_TO_GET) from None
    try:
        async with asyncio.timeout(_VERSION_TIMEOUT_S):
            output, _ = await process.communicate()
    except TimeoutError:
        process.kill()
        await process.wait()
        raise ProblemError(
            f"{path} --version says nothing for {_VERSION_TIMEOUT_S:g} s", HOW_TO_GET
        ) from None
    if process.returncode != 0:
        raise ProblemError(
            f"{path} --version ended with exit status {process.returncode}", HOW_TO_GET
        )
    version = output.decode("utf-8", "replace").strip().partition("\n")[0][:100]
    return f"{path}: {version}"

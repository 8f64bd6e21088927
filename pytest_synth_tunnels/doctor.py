"""``python -m pytest_synth_tunnels doctor``: whether tunnels work here, and what to do if not.

It goes the way of a run, in one process: the keeper's own service asks the backend for a lease,
brings its traffic to a small app, and gives it back.
"""

import asyncio
import importlib.metadata
import logging
import os
import secrets
import shutil
import socket
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any, Final, TypeVar

import httpx

from .connectors.base import Assignment, ConnectorError
from .connectors.child import child_environment
from .connectors.cloudflared import HOW_TO_GET
from .connectors.registry import load
from .keeper.failures import FailureError
from .keeper.holders import Holder
from .keeper.leases import SYNTHTUNNEL
from .keeper.messages import Backend, CloseLease, Done, Expose, LeaseInfo, Message, WaitReady
from .keeper.plane import EmbeddedPlane, HostedPlane, Plane
from .keeper.ports import HOST, is_taken
from .keeper.service import Service
from .keeper.tasks import in_thread
from .keeper.way import ACCOUNTS, connector_name
from .options import API_KEY_VARIABLE, Option
from .relay.head import WORKER_TOKEN_HEADER
from .sdk import requests
from .sdk.errors import TunnelError
from .sdk.resolve import is_loopback
from .settings import Settings, SettingsError, resolve

__all__ = ["Finding", "Verdict", "examine"]

_DEADLINE_S: Final = 90.0
_READY_TIMEOUT_S: Final = 45.0
_CALL_TIMEOUT_S: Final = 15.0
_CONNECT_TIMEOUT_S: Final = 2.0
_VERSION_TIMEOUT_S: Final = 10.0
_GATEWAY_PORT: Final = 8016

# What the keeper logs is in the findings.
logging.getLogger("pytest_synth_tunnels").addHandler(logging.NullHandler())

_M = TypeVar("_M", bound=Message)


class Verdict(StrEnum):
    """How a check ended."""

    OK = "ok"
    PROBLEM = "problem"
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check found.

    Attributes:
        name: of the check, one word.
        verdict: how it ended.
        text: what was found, without secrets.
        hint: what to do about it, or empty.
    """

    name: str
    verdict: Verdict
    text: str
    hint: str = ""


Say = Callable[[Finding], None]


class _ProblemError(Exception):
    """A check found a problem."""

    def __init__(self, text: str, hint: str = "") -> None:
        super().__init__(text)
        self.text = text
        self.hint = hint


def examine(
    *, backend: str | None, provider: str | None, environ: Mapping[str, str], say: Say
) -> bool:
    """Check everything that a run needs, in its order.

    Args:
        backend: as ``synth_tunnels_backend``; ``None`` for what the environment says.
        provider: as ``synth_tunnels_provider``; likewise.
        environ: the environment.
        say: takes each finding as it is made.

    Returns:
        Whether there was no problem.
    """
    given = {"backend": backend, "provider": provider}

    def command_line(option: Option) -> str | None:
        return given.get(option.name)

    try:
        settings = resolve(command_line, environ, lambda _: None)
    except SettingsError as error:
        say(Finding("settings", Verdict.PROBLEM, str(error)))
        return False
    return asyncio.run(_Examination(settings, environ, say).run())


class _Examination:
    def __init__(self, settings: Settings, environ: Mapping[str, str], say: Say) -> None:
        # A lease of its own is enough, and nothing else is to be started.
        self._settings = replace(settings, share="worker", port=None, command=None)
        self._environ = environ
        self._key = environ.get(API_KEY_VARIABLE, "").strip()
        self._say = say
        self._failed = False
        self._holder = Holder(os.getpid(), "")
        self._embedded = settings.backend_url is None
        self._connector = connector_name(settings.provider, embedded=self._embedded)

    async def run(self) -> bool:
        """Make all checks."""
        await self._check("settings", self._describe_settings())
        await self._check("key", self._find_key())
        service, plane = self._make_service()
        service.start()
        try:
            async with asyncio.timeout(_DEADLINE_S):
                await self._check("backend", self._ask_backend(service, plane))
                await self._check("connector", self._find_connector())
                await self._check("ports", self._try_ports())
                await self._check("round trip", self._go_round(service))
        except TimeoutError:
            self._tell("deadline", Verdict.PROBLEM, f"the checks took over {_DEADLINE_S:g} s")
        finally:
            report = await service.finish()
        for line in report.unreleased:
            self._tell("release", Verdict.PROBLEM, line)
        return not self._failed

    async def _check(self, name: str, work: Awaitable[str | None]) -> None:
        """Make one check: it returns what it found, or ``None`` if it cannot be made, or raises
        what is wrong."""
        try:
            text = await work
        except _ProblemError as error:
            self._tell(name, Verdict.PROBLEM, error.text, error.hint)
        except FailureError as error:
            self._tell(name, Verdict.PROBLEM, error.failure.message, error.failure.hint)
        except (TunnelError, ConnectorError) as error:
            self._tell(name, Verdict.PROBLEM, error.message, error.hint)
        else:
            if text is None:
                self._tell(name, Verdict.SKIPPED, "not without what is missing above")
            else:
                self._tell(name, Verdict.OK, text)

    def _tell(self, name: str, verdict: Verdict, text: str, hint: str = "") -> None:
        if verdict is Verdict.PROBLEM:
            self._failed = True
        if self._key:
            text, hint = (part.replace(self._key, "***") for part in (text, hint))
        self._say(Finding(name, verdict, text, hint))

    def _make_service(self) -> tuple[Service, Plane]:
        url = self._settings.backend_url
        plane: Plane = (
            EmbeddedPlane(self._settings.request_timeout_s) if url is None else HostedPlane(url)
        )
        service = Service(
            run_id=f"doctor-{secrets.token_hex(4)}",
            settings=self._settings,
            environ={k: v for k, v in self._environ.items() if k != API_KEY_VARIABLE},
            cwd=os.getcwd(),
            plane=plane,
            books=None,  # what is left after a crash here is over in a minute
            left=lambda: None,
        )
        return service, plane

    async def _ask(self, service: Service, message: Message, answer: type[_M]) -> _M:
        found = await service.answer(self._holder, message)
        assert isinstance(found, answer)  # noqa: S101 - the keeper's own promise
        return found

    # --- the checks, in their order

    async def _describe_settings(self) -> str:
        settings = self._settings
        parts = [
            f"{settings.backend_url or 'embedded'} backend",
            f"provider {settings.provider}",
            *(f"{name} from {source}" for name, source in settings.sources.items()),
        ]
        return f"{', '.join(parts)} (pytest's ini file is not read)"

    async def _find_key(self) -> str:
        if self._embedded:
            return "the embedded backend needs none"
        if not self._key:
            raise _ProblemError(
                f"${API_KEY_VARIABLE} is not set",
                "Set it to your Synth API key, or use the embedded backend",
            )
        return f"from ${API_KEY_VARIABLE}"

    async def _ask_backend(self, service: Service, plane: Plane) -> str | None:
        if self._failed:
            return None
        await service.answer(self._holder, Backend())  # once it has started
        began = time.perf_counter()
        health: Mapping[str, Any] = await plane.call(requests.health())
        took_ms = (time.perf_counter() - began) * 1000
        await plane.call(requests.list_leases())
        served = [str(name) for name in health.get("providers") or ()]
        provider = self._settings.provider
        if provider in (SYNTHTUNNEL, *ACCOUNTS) and served and provider not in served:
            raise _ProblemError(
                f"{plane.url} serves no {provider}",
                f"Set synth_tunnels_provider to one of {', '.join(served)}",
            )
        return f"{plane.url} answers in {took_ms:.0f} ms, and takes the key"

    async def _find_connector(self) -> str:
        if self._connector == SYNTHTUNNEL:
            return "synthtunnel needs none"
        load(self._connector, self._settings.connectors)
        if self._connector == "loopback":
            return f"the embedded backend carries {self._settings.provider} leases itself"
        if self._connector in ("cloudflared", "cloudflared-quick"):
            program = self._settings.cloudflared or "cloudflared"
            return await _cloudflared_version(program, child_environment(self._environ))
        if self._connector == "ngrok":
            from .connectors.ngrok import NgrokConnector

            NgrokConnector(Assignment(gateway_url="", environ=self._environ)).config()
            return f"the package ngrok {importlib.metadata.version('ngrok')}, and its authtoken"
        return f"{self._connector} can be imported"

    @property
    def _has_fixed_port(self) -> bool:
        """Whether the provider brings the traffic to a port that cannot be chosen."""
        if self._embedded or self._connector == SYNTHTUNNEL:
            return False
        try:
            return not load(self._connector, self._settings.connectors).brings_url
        except ConnectorError:
            return False

    async def _try_ports(self) -> str:
        try:
            with socket.create_server((HOST, 0)) as listener:
                socket.create_connection(listener.getsockname(), _CONNECT_TIMEOUT_S).close()
        except OSError as error:
            raise _ProblemError(
                f"{HOST} cannot be listened on, or not be reached: {error}",
                "Look for a sandbox or a firewall that keeps programs from their own machine",
            ) from None
        if not self._has_fixed_port:
            return f"{HOST} can be listened on and reached"
        if is_taken(_GATEWAY_PORT):
            raise _ProblemError(
                f"{HOST}:{_GATEWAY_PORT}, where the provider brings the traffic, is taken",
                "Stop what listens there, another test run with this provider perhaps",
            )
        return f"{HOST}:{_GATEWAY_PORT}, where the provider brings the traffic, is free"

    async def _go_round(self, service: Service) -> str | None:
        """Open a lease, call a small app through its public URL, and give it back."""
        if self._failed:
            return None
        proof = secrets.token_hex(16)
        began = time.perf_counter()
        app = await asyncio.start_server(_App(proof).serve, HOST, 0)
        async with app:
            request = Expose(
                target=f"http://{HOST}:{_port_of(app)}",
                provider=None,
                ttl_s=_DEADLINE_S,
                name="doctor",
                require_token=True,
            )
            lease = await self._ask(service, request, LeaseInfo)
            ready = WaitReady(lease_id=lease.lease_id, timeout_s=_READY_TIMEOUT_S)
            await self._ask(service, ready, Done)
            opened_s = time.perf_counter() - began
            status, body = await in_thread(lambda: _get(lease))
            took_ms = (time.perf_counter() - began - opened_s) * 1000
            if status != 200 or body != proof:
                raise _ProblemError(f"the public URL answered {status}, and not what the app said")
            await self._ask(service, CloseLease(lease_id=lease.lease_id), Done)
        return (
            f"lease open in {opened_s:.1f} s, a request and its answer {took_ms:.0f} ms, released"
        )


class _App:
    """Answers every request with the same text."""

    def __init__(self, text: str) -> None:
        self._text = text

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one request."""
        with suppress(OSError, EOFError, asyncio.LimitOverrunError):
            await reader.readuntil(b"\r\n\r\n")
            head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(self._text)}\r\nConnection: close"
            writer.write(f"{head}\r\n\r\n{self._text}".encode())
            await writer.drain()
        writer.close()


def _port_of(server: asyncio.Server) -> int:
    port: int = server.sockets[0].getsockname()[1]
    return port


def _get(lease: LeaseInfo) -> tuple[int, str]:
    headers = {WORKER_TOKEN_HEADER: lease.worker_token} if lease.worker_token else {}
    url = httpx.URL(f"{lease.public_url}/synth-tunnels-doctor")
    try:
        answer = httpx.get(
            url, headers=headers, timeout=_CALL_TIMEOUT_S, trust_env=not is_loopback(url.host)
        )
    except httpx.HTTPError as error:
        raise _ProblemError(f"the public URL cannot be reached: {error or type(error)}") from None
    return answer.status_code, answer.text


async def _cloudflared_version(program: str, environ: Mapping[str, str]) -> str:
    path = shutil.which(program, path=environ.get("PATH", os.defpath))
    if path is None:
        raise _ProblemError(f"there is no program {program}", HOW_TO_GET)
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
        raise _ProblemError(f"{path} cannot be started: {error}", HOW_TO_GET) from None
    try:
        async with asyncio.timeout(_VERSION_TIMEOUT_S):
            output, _ = await process.communicate()
    except TimeoutError:
        process.kill()
        await process.wait()
        raise _ProblemError(
            f"{path} --version says nothing for {_VERSION_TIMEOUT_S:g} s", HOW_TO_GET
        ) from None
    if process.returncode != 0:
        raise _ProblemError(
            f"{path} --version ended with exit status {process.returncode}", HOW_TO_GET
        )
    version = output.decode("utf-8", "replace").strip().partition("\n")[0][:100]
    return f"{path}: {version}"

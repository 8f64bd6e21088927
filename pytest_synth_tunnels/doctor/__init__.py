"""``python -m pytest_synth_tunnels doctor``: whether tunnels work here, and what to do if not.

It goes the way of a run, in one process: the keeper's own service asks the backend for a lease,
brings its traffic to a small app, and gives it back.
"""

import asyncio
import logging
import os
import secrets
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final

from ..compiled import build_name
from ..keeper.backend_client import BackendClient, EmbeddedBackendClient, HostedBackendClient
from ..keeper.service import KeeperService
from ..options import API_KEY_VARIABLE, Option
from ..sdk.hinted_error import HintedError
from ..settings import Settings, SettingsError, resolve
from .checks import Checks

__all__ = ["Finding", "Verdict", "examine"]

_DEADLINE_S: Final = 90.0

# The findings say what the keeper's log would say.
logging.getLogger("pytest_synth_tunnels").addHandler(logging.NullHandler())


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
"""Takes each finding as it is made."""


def examine(
    *, backend: str | None, provider: str | None, environ: Mapping[str, str], say: Say
) -> bool:
    """Check everything that a run needs, in its order.

    Args:
        backend: as ``synth_tunnels_backend``; ``None`` for what the environment says.
        provider: as ``synth_tunnels_provider``; ``None`` for what the environment says.
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
        # The doctor exposes its own small app, and starts nothing of the user's.
        self._settings = replace(settings, share="worker", port=None, command=None)
        self._environ = environ
        self._key = environ.get(API_KEY_VARIABLE, "").strip()
        self._say = say
        self._failed = False

    async def run(self) -> bool:
        """Make all checks."""
        service, backend_client = self._make_service()
        checks = Checks(self._settings, self._environ, service, backend_client)
        service.start()
        try:
            async with asyncio.timeout(_DEADLINE_S):
                self._tell("version", Verdict.OK, build_name())
                await self._make("settings", checks.settings)
                await self._make("key", checks.key)
                await self._make("backend", checks.backend, needs_all=True)
                await self._make("connector", checks.connector)
                await self._make("ports", checks.ports)
                await self._make("round trip", checks.round_trip, needs_all=True)
        except TimeoutError:
            self._tell("deadline", Verdict.PROBLEM, f"the checks took over {_DEADLINE_S:g} s")
        finally:
            report = await service.finish()
        for line in report.unreleased:
            self._tell("release", Verdict.PROBLEM, line)
        return not self._failed

    def _make_service(self) -> tuple[KeeperService, BackendClient]:
        url = self._settings.backend_url
        backend_client: BackendClient = (
            EmbeddedBackendClient.of(self._settings) if url is None else HostedBackendClient(url)
        )
        service = KeeperService(
            run_id=f"doctor-{secrets.token_hex(4)}",
            settings=self._settings,
            environ={k: v for k, v in self._environ.items() if k != API_KEY_VARIABLE},
            cwd=os.getcwd(),
            backend_client=backend_client,
            ledger_recorder=None,  # a lease that a crash leaves behind expires in two minutes
            on_holder_left=lambda: None,
        )
        return service, backend_client

    async def _make(
        self, name: str, check: Callable[[], Awaitable[str]], *, needs_all: bool = False
    ) -> None:
        """Make one check.

        Args:
            name: of the check.
            check: returns what it found, or raises what is wrong.
            needs_all: leave the check out if an earlier one found a problem.
        """
        if needs_all and self._failed:
            self._tell(name, Verdict.SKIPPED, "not without what is missing above")
            return
        try:
            text = await check()
        except HintedError as error:
            self._tell(name, Verdict.PROBLEM, error.message, error.hint)
        else:
            self._tell(name, Verdict.OK, text)

    def _tell(self, name: str, verdict: Verdict, text: str, hint: str = "") -> None:
        if verdict is Verdict.PROBLEM:
            self._failed = True
        if self._key:
            text, hint = (part.replace(self._key, "***") for part in (text, hint))
        self._say(Finding(name, verdict, text, hint))

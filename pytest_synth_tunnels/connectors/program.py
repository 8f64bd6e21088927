"""Connectors that run a program and read what it prints: most providers have one.

A provider of one's own is a class such as this one::

    from urllib.parse import urlsplit

    from pytest_synth_tunnels.connectors.program import Outcome, OutputRule, ProgramConnector


    class BoreConnector(ProgramConnector):
        name = "bore"
        how_to_get = "Install it with: cargo install bore-cli"
        brings_url = True
        output_rules = (OutputRule(Outcome.UP, r"public url is (?P<origin>https?://\\S+)"),)

        def arguments(self):
            port = urlsplit(self.assignment.gateway_url).port
            return ["bore", "local", str(port), "--to", "bore.example"]
"""

import os
import shutil
from collections.abc import Callable, Mapping
from typing import ClassVar

from ..environment import allowed_environment
from .base import Assignment, ConnectorError, ConnectorStatus
from .child import Child
from .output_rules import Outcome, OutputRule
from .supervisor import Supervisor

__all__ = ["Outcome", "OutputRule", "ProgramConnector"]


class ProgramConnector:
    """A :class:`~.base.Connector` that is a program, kept running by a
    :class:`~.supervisor.Supervisor`.

    Args:
        assignment: what it has to do.

    Attributes:
        name: of the program, for people.
        how_to_get: what to do where there is no such program.
        output_rules: what its lines mean; the first that matches a line counts. A connector that
            :attr:`brings_url` needs a rule with a group ``origin``.
        brings_url: see :class:`~.base.Connector`.
        is_public: see :class:`~.base.Connector`.
        assignment: what it has to do.
    """

    name: ClassVar[str] = "the program"
    how_to_get: ClassVar[str] = ""
    output_rules: ClassVar[tuple[OutputRule, ...]] = ()
    brings_url: ClassVar[bool] = False
    is_public: ClassVar[bool] = True

    def __init__(self, assignment: Assignment) -> None:
        self.assignment = assignment
        self._supervisor: Supervisor | None = None

    # --- what a provider implements

    def arguments(self) -> list[str]:
        """Return the program, by name or path, and its arguments, which everybody on this
        machine can read: no secrets.

        Raises:
            ConnectorError: something is missing.
        """
        raise NotImplementedError

    def environment(self) -> Mapping[str, str]:
        """Return the variables that the program gets beside those that every program gets, such as
        ``PATH`` and the proxies. This is the place for a token.

        Raises:
            ConnectorError: something is missing.
        """
        return {}

    def stdin_data(self) -> bytes | None:
        """Return what the program reads on its standard input, which then stays open until the
        program is to end; ``None`` if it reads nothing."""
        return None

    # --- what the keeper calls

    async def start(self) -> None:
        """Start the program.

        Raises:
            ConnectorError: it is missing, or cannot be started.
        """
        if self._supervisor is not None:
            return
        self._supervisor = Supervisor(
            self.name, self._process, self.output_rules, needs_origin=self.brings_url
        )
        try:
            await self._supervisor.start()
        except BaseException:
            self._supervisor = None
            raise

    async def ready(self) -> str | None:
        """Wait until the program is connected. May be asked again: one that was started again
        may have another origin.

        Returns:
            The public origin if it :attr:`brings_url`.

        Raises:
            ConnectorError: it will never be connected, or was not started.
        """
        if self._supervisor is None:
            raise ConnectorError(f"{self.name} was not started")
        origin = await self._supervisor.up()
        return origin if self.brings_url else None

    def status(self) -> ConnectorStatus:
        """Return its state."""
        if self._supervisor is None:
            return ConnectorStatus(False, f"{self.name} was not started")
        return self._supervisor.status

    async def stop(self) -> None:
        """End the program and whatever it started."""
        if self._supervisor is not None:
            await self._supervisor.stop()

    def logs(self) -> list[str]:
        """Return its last lines, secrets masked."""
        return self._supervisor.logs() if self._supervisor is not None else []

    def _process(self, on_line: Callable[[str], None]) -> Child:
        program, *rest = self.arguments()
        environ = self.assignment.environ
        found = shutil.which(program, path=environ.get("PATH", os.defpath))
        if found is None:
            raise ConnectorError(
                f"{self.name} cannot be started: there is no program {program!r} "
                f"{'' if os.path.dirname(program) else 'in the PATH'}".rstrip(),
                self.how_to_get,
            )
        return Child(
            [found, *rest],
            environ=allowed_environment(environ) | dict(self.environment()),
            stdin_data=self.stdin_data(),
            secrets=self.assignment.secrets(),
            on_line=on_line,
        )

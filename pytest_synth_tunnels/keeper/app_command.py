"""The app that ``synth_tunnels_command`` names: started once, watched, and ended with the run."""

import asyncio
import shlex
import sys
from collections.abc import Callable, Mapping
from typing import Final

from ..connectors.child import Child
from .errors import KeeperRequestError
from .ports import HOST, accepts, is_taken

__all__ = ["AppCommand"]

_CODE: Final = "COMMAND_FAILED"
_POLL_S: Final = 0.05
_PUBLIC_URL: Final = "{public_url}"
_PUBLIC_URL_VARIABLE: Final = "SYNTH_PUBLIC_URL"


class AppCommand:
    """The command of a run, which serves one port for all its processes.

    Args:
        template: the command; ``{port}`` and ``{public_url}`` stand for their values. No shell
            reads it.
        port: the port that it is to serve on 127.0.0.1.
        public_url: where its callers come, which it gets as ``SYNTH_PUBLIC_URL`` too; ``None``
            where each process has a URL of its own.
        is_secret: whether the public URL is all that callers need, so that it may not be in the
            arguments, which every user of this machine can read.
        environ: its environment.
        cwd: its working directory.
        timeout_s: how long it may take until the port accepts, in seconds.
        on_death: called with a message if it ends by itself after it was up.
    """

    def __init__(
        self,
        template: str,
        *,
        port: int,
        public_url: str | None,
        is_secret: bool,
        environ: Mapping[str, str],
        cwd: str,
        timeout_s: float,
        on_death: Callable[[str], None],
    ) -> None:
        self._template = template
        self._port = port
        self._public_url = public_url
        self._is_secret = is_secret
        self._environ = dict(environ)
        if public_url is not None:
            self._environ[_PUBLIC_URL_VARIABLE] = public_url
        self._cwd = cwd
        self._timeout_s = timeout_s
        self._on_death = on_death
        self._child: Child | None = None
        self._watcher: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Start it and wait until its port accepts.

        Raises:
            KeeperRequestError: the port is in use, the command cannot be started, ended, or took
                too long; nothing of it runs then.
        """
        if is_taken(self._port):
            raise KeeperRequestError(
                _CODE,
                f"port {self._port} is in use already, so synth_tunnels_command was not started",
                "Stop what listens there, or set synth_tunnels_port to another port",
            )
        child = self._child = await self._spawn()
        try:
            async with asyncio.timeout(self._timeout_s):
                await self._wait_until_up(child)
        except TimeoutError:
            await self.stop()
            raise KeeperRequestError(
                _CODE,
                f"synth_tunnels_command did not listen on {HOST}:{self._port} within "
                f"{self._timeout_s:g} s; {child.tail.quoted()}",
                "Does it serve {port}? Set synth_tunnels_command_timeout_s for a slow start",
            ) from None
        except BaseException:
            await self.stop()
            raise
        self._watcher = asyncio.create_task(self._watch(child))

    def _arguments(self) -> list[str]:
        try:
            words = shlex.split(self._template, posix=sys.platform != "win32")
        except ValueError as error:
            raise KeeperRequestError(
                _CODE, f"synth_tunnels_command cannot be read: {error}"
            ) from None
        if any(_PUBLIC_URL in word for word in words):
            self._check_public_url()
        values = {"{port}": str(self._port), _PUBLIC_URL: self._public_url or ""}
        for name, value in values.items():
            words = [word.replace(name, value) for word in words]
        return words

    def _check_public_url(self) -> None:
        """See that the public URL may be in the arguments.

        Raises:
            KeeperRequestError: it may not, and why.
        """
        if self._public_url is None:
            raise KeeperRequestError(
                _CODE,
                "synth_tunnels_command has {public_url}, but each worker has a URL of its own",
                "Use synth_tunnels_share = run",
            )
        if self._is_secret:
            raise KeeperRequestError(
                _CODE,
                "synth_tunnels_command has {public_url}, which alone lets callers in, and every "
                "user of this machine can read a command's arguments",
                f"Have the app read it from ${_PUBLIC_URL_VARIABLE} in its environment",
            )

    async def _spawn(self) -> Child:
        arguments = self._arguments()
        child = Child(arguments, environ=self._environ, cwd=self._cwd)
        try:
            await child.start()
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) and error.strerror else error
            raise KeeperRequestError(
                _CODE,
                f"synth_tunnels_command cannot be started: {arguments[0]!r}: {reason}",
                f"It was looked for on PATH and runs in {self._cwd}",
            ) from None
        return child

    async def _wait_until_up(self, child: Child) -> None:
        while not await accepts(HOST, self._port, 1.0):
            if child.exited.is_set():
                raise KeeperRequestError(
                    _CODE,
                    f"synth_tunnels_command ended ({await child.wait()}) before it listened on "
                    f"{HOST}:{self._port}; {child.tail.quoted()}",
                )
            await asyncio.sleep(_POLL_S)

    async def _watch(self, child: Child) -> None:
        outcome = await child.wait()
        self._on_death(f"synth_tunnels_command ended ({outcome}); {child.tail.quoted()}")

    async def stop(self, grace_s: float = 3.0) -> None:
        """End it and everything it started: asked first, and killed ``grace_s`` seconds later."""
        if self._watcher is not None:
            self._watcher.cancel()
        if self._child is not None:
            await self._child.stop(grace_s)

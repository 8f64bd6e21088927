"""What all tests share. Real pytest runs happen in subprocesses, through pytester."""

import asyncio
import os
import signal

import pytest

pytest_plugins = ["pytester"]


IGNORED = "TESTS_IGNORE_SIGNALS"
"""The environment variable by which xdist's workers learn what their controller ignores."""


def _ignore_alone() -> None:
    """Let the processes that tests start not ignore what this one does.

    Started with ``nohup … &``, a process ignores signals, and so do all that descend from it. A
    handler that does nothing ignores them for this process alone.
    """
    names = ("SIGINT", "SIGQUIT", "SIGHUP")
    known = [getattr(signal, name) for name in names if hasattr(signal, name)]
    told = os.environ.get(IGNORED, "").split()
    ignored = [n for n in known if signal.getsignal(n) == signal.SIG_IGN or str(int(n)) in told]
    os.environ[IGNORED] = " ".join(str(int(number)) for number in ignored)
    for number in ignored:
        signal.signal(number, lambda *_: None)


_ignore_alone()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--uvloop", action="store_true", help="run what is asynchronous on uvloop's event loop"
    )


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("uvloop"):
        import uvloop

        asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())


@pytest.fixture(autouse=True)
def _no_hosted_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep every test offline, whatever the developer's environment holds."""
    for name in list(os.environ):
        if name.startswith(("SYNTH_API", "SYNTH_BACKEND", "SYNTH_TUNNELS_")) and (
            name != "SYNTH_TUNNELS_PASS_ENV"
        ):
            monkeypatch.delenv(name)

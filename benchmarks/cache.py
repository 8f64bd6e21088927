"""What a run needs: found on this machine, or installed once into a folder outside the project."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from processes import BenchmarkError

__all__ = ["REPOSITORY", "Cache", "MissingError", "child_environment", "tool"]

REPOSITORY = Path(__file__).resolve().parent.parent

_INSTALL_TIMEOUT_S = 540
_PACKAGES = {
    "wrk": "wrk",
    "nginx": "nginx-light",
    "ssh": "openssh-client",
    "ssh-keygen": "openssh-client",
    "sshd": "openssh-server",
    "node": "nodejs",
    "npm": "npm",
}
_REMOVED = ("PYTHONDONTWRITEBYTECODE", "SYNTH_API_KEY", "SYNTH_BACKEND_URL", "PYTEST_ADDOPTS")


class MissingError(BenchmarkError):
    """Something is not on this machine and could not be installed."""


def tool(name: str) -> str:
    """Return the path of a program.

    Raises:
        MissingError: with the Debian package that has it.
    """
    found = shutil.which(name, path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin")
    if found is None:
        raise MissingError(f"{name} is not here: apt-get install {_PACKAGES.get(name, name)}")
    return found


def child_environment(**extra: str) -> dict[str, str]:
    """Return the environment of what is measured: no proxy, no key, no setting of this project."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("SYNTH_TUNNELS_")
        and not name.lower().endswith("_proxy")
        and name not in _REMOVED
    }
    return {**kept, **extra}


class Cache:
    """The folder with the peers.

    Args:
        folder: made if needed.
        offline: use what is there, install nothing.
    """

    def __init__(self, folder: Path, *, offline: bool = False) -> None:
        self.folder = folder
        self._offline = offline
        folder.mkdir(parents=True, exist_ok=True)

    def python(
        self, name: str, *requirements: str, dependencies: bool = True, stamp: str = ""
    ) -> Path:
        """Return the interpreter of a virtual environment with these requirements.

        Args:
            name: of its folder.
            requirements: for pip.
            dependencies: false where a package works without what it declares.
            stamp: what makes an older environment useless when it differs.
        """
        version = ".".join(map(str, sys.version_info[:2]))
        home = self.folder / f"{name}-py{version}"
        python = home / "bin" / "python"

        def install() -> None:
            _run(sys.executable, "-m", "venv", home)
            options = () if dependencies else ("--no-deps",)
            pip = (python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check")
            _run(*pip, *options, *requirements)

        self._once(home, " ".join((*requirements, stamp)), install)
        return python

    def compiled_wheel(self, stamp: str) -> Path:
        """Return the wheel of this project with a compiled data path.

        Args:
            stamp: what makes an older wheel useless when it differs.
        """
        home = self.folder / f"compiled-py{'.'.join(map(str, sys.version_info[:2]))}"

        def install() -> None:
            _run(
                *(sys.executable, "-m", "pip", "wheel", "--quiet", "--disable-pip-version-check"),
                *("--no-deps", "--wheel-dir", home, REPOSITORY),
                SYNTH_TUNNELS_COMPILE="1",
            )

        self._once(home, stamp, install)
        (wheel,) = home.glob("*.whl")
        return wheel

    def node_modules(self, name: str, manifest: str) -> Path:
        """Return the ``node_modules`` folder of a package.json's text."""
        home = self.folder / name

        def install() -> None:
            npm = tool("npm")
            home.mkdir()
            (home / "package.json").write_text(manifest)
            _run(npm, "install", "--prefix", home, "--no-audit", "--no-fund", "--ignore-scripts")

        self._once(home, manifest, install)
        return home / "node_modules"

    def compiled(self, source: Path) -> Path | None:
        """Return the program of a C file, or ``None`` where there is no compiler."""
        compiler = shutil.which("cc")
        if compiler is None:
            return None
        program = self.folder / source.stem
        if not program.exists() or program.stat().st_mtime < source.stat().st_mtime:
            _run(compiler, "-O2", "-o", program, source)
        return program

    def _once(self, home: Path, wanted: str, install: Callable[[], None]) -> None:
        """Install unless a whole installation of the same is there."""
        mark = home / "installed.txt"
        if mark.exists() and mark.read_text() == wanted:
            return
        if self._offline:
            raise MissingError(f"{home.name} is not installed, and --offline forbids it")
        shutil.rmtree(home, ignore_errors=True)
        print(f"  installing {home.name}", file=sys.stderr)
        install()
        mark.write_text(wanted)


def _run(*command: str | Path, **environment: str) -> None:
    try:
        done = subprocess.run(
            command,
            env={**os.environ, **environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=_INSTALL_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise MissingError(f"{Path(command[0]).name} took over {_INSTALL_TIMEOUT_S} s") from None
    if done.returncode != 0:
        raise MissingError(f"{Path(command[0]).name} failed: {done.stdout.strip()[-300:]}")

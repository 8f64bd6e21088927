"""The build hook that translates the data path to C, with mypyc.

It does nothing, and needs nothing, unless the environment variable SYNTH_TUNNELS_COMPILE is 1: a
wheel is then pure Python, and no C compiler is asked for. A compiled wheel holds the same Python
files, and beside those that are translated an extension module each, which Python prefers.
"""

import os
import shlex
import shutil
import sys
import sysconfig
import tempfile
from contextlib import chdir
from itertools import chain
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

PACKAGE = "pytest_synth_tunnels"

FOLDERS = ("aio", "http", "wire", "websocket", "relay", "agent")
MODULES = ("traffic/log.py", "traffic/recorder.py", "in_process.py", "gateway.py")
INTERPRETED = (
    "http/tls.py",  # its part is a connection's handshake, and the event loop does that
    "http/probe.py",  # an asynchronous generator, which mypyc does not translate
    "wire/frames.py",  # msgspec makes these classes, and asks the interpreter for their fields
)
"""What stays as it is of :data:`FOLDERS`. None of it is a step of a request's way."""

SHARED_LIBRARY = f"{PACKAGE}._compiled"
"""mypyc puts the code of all modules into one library, whose name it makes of this."""


WHAT_TO_DO = (
    "Install a C compiler (Debian: build-essential; macOS: xcode-select --install), or name yours "
    "in CC. Or leave SYNTH_TUNNELS_COMPILE out: the wheel is then pure Python, does the same, and "
    "needs none."
)


def is_wanted() -> bool:
    """Tell whether the wheel is to be compiled."""
    return os.environ.get("SYNTH_TUNNELS_COMPILE", "") == "1"


def sources(root: Path) -> list[str]:
    """Return the files to translate, relative to the project's folder."""
    package = root / PACKAGE
    found = [path for folder in FOLDERS for path in (package / folder).glob("*.py")]
    left_out = {package / name for name in INTERPRETED}
    chosen = [path for path in found if path.name != "__init__.py" and path not in left_out]
    chosen += [package / name for name in MODULES]
    return sorted(path.relative_to(root).as_posix() for path in chosen)


class CompileHook(BuildHookInterface):
    """Adds the extension modules to the wheel."""

    _built: str = ""
    """The temporary folder that holds them until they are in the wheel."""

    def dependencies(self) -> list[str]:
        """Return what the build needs beside hatchling: for a compiled wheel mypyc, and what the
        package itself needs, from whose types mypyc learns what is what."""
        if not is_wanted():
            return []
        return ["mypy[mypyc]~=2.4", "setuptools>=69", *self.metadata.core.dependencies]

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile, before the wheel is put together. An editable installation stays pure."""
        if version == "editable" or not is_wanted():
            return
        require_compiler()
        self._built = tempfile.mkdtemp(prefix="synth-tunnels-build-")
        library = Path(self._built, "lib")
        try:
            with chdir(self.root):
                compile_sources(sources(Path(self.root)), library, Path(self._built, "temp"))
        except BaseException:
            self._clean_up()
            raise
        build_data["pure_python"] = False
        build_data["infer_tag"] = True
        for path in sorted(library.rglob("*")):
            if path.is_file():
                build_data["force_include"][str(path)] = path.relative_to(library).as_posix()

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """Clean up, when the wheel has everything."""
        self._clean_up()

    def _clean_up(self) -> None:
        if self._built:
            shutil.rmtree(self._built, ignore_errors=True)


def require_compiler() -> None:
    """See that there is a C compiler, before mypyc works for a minute.

    Raises:
        SystemExit: there is none. It ends the build with its message alone.
    """
    if os.name == "nt":
        return  # setuptools looks for Visual Studio, and says what it lacks
    command = os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc"
    program = shlex.split(command)[0]
    if shutil.which(program) is None:
        raise SystemExit(
            f"SYNTH_TUNNELS_COMPILE=1 asks for a compiled wheel, but the C compiler {program!r} "
            f"is not there. {WHAT_TO_DO}"
        )


def compile_sources(files: list[str], library: Path, temporary: Path) -> None:
    """Translate and compile.

    Args:
        files: relative to the working directory.
        library: the folder where the extension modules are put, in the folders of their packages.
        temporary: the folder for everything in between.

    Raises:
        SystemExit: mypyc or the C compiler refuses; they have said why.
    """
    from mypyc.build import mypycify
    from setuptools import Distribution
    from setuptools.errors import BaseError, CCompilerError

    options = {
        "--config-file": "pyproject.toml",
        "--cache-dir": str(temporary / "mypy"),
        # Of the other modules the types alone matter. What some of them import is not there.
        "--follow-imports": "silent",
    }
    extensions = mypycify(
        [*chain(*options.items()), *files],
        opt_level=os.environ.get("MYPYC_OPT_LEVEL", "3"),
        debug_level="0",
        group_name=SHARED_LIBRARY,
        target_dir=str(temporary / "c"),
    )
    build = Distribution({"name": PACKAGE, "ext_modules": extensions}).get_command_obj("build_ext")
    build.build_lib = str(library)
    build.build_temp = str(temporary / "objects")
    build.parallel = os.cpu_count()
    build.ensure_finalized()
    sys.stdout.flush()
    try:
        build.run()
    except (BaseError, CCompilerError) as error:
        raise SystemExit(f"The data path could not be compiled: {error}. {WHAT_TO_DO}") from None

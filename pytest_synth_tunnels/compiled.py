"""Whether this installation's data path is compiled: see ``hatch_build.py``, which does that.

The same source files make both forms, and both behave the same. A compiled one costs a request
less CPU.
"""

from collections.abc import Callable
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from ._version import __version__

__all__ = ["build_name", "is_compiled", "mypyc_attr"]

if TYPE_CHECKING:
    from mypy_extensions import mypyc_attr
else:

    def mypyc_attr(**_: Any) -> Callable[[type], type]:
        """Tell mypyc something of a class; nothing of it matters to Python.

        A compiled class is closed unless ``allow_interpreted_subclasses`` is said of it: Python
        code, such as a test's, may not derive from it.
        """
        return lambda decorated: decorated


_SOURCE: Final = Path(__file__).parent / "http" / "connection.py"
"""One of the modules that are compiled together."""


def is_compiled(source: Path = _SOURCE) -> bool:
    """Return whether Python imports an extension module in the place of a source file.

    Args:
        source: by default one of the data path's.
    """
    return any(source.with_name(source.stem + suffix).exists() for suffix in EXTENSION_SUFFIXES)


def build_name() -> str:
    """Return the version of this installation and its form, such as ``0.1.0 (compiled)``."""
    return f"{__version__} ({'compiled' if is_compiled() else 'pure Python'})"

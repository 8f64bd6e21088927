"""Finds an application, and tells ASGI from WSGI."""

import functools
import inspect
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Literal

from .errors import ServeError

__all__ = ["Application", "Interface", "find_application", "tell_interface"]

Interface = Literal["asgi3", "asgi2", "wsgi"]

_SIGNATURES = (
    "An ASGI application takes (scope, receive, send) and is async, a WSGI application takes "
    "(environ, start_response)"
)


@dataclass(frozen=True)
class Application:
    """An application that can be served.

    Attributes:
        name: what messages call it: as the user named it, or after its type.
        call: the callable.
        interface: how a server calls it.
    """

    name: str
    call: Callable[..., Any]
    interface: Interface


def find_application(app: object, root_path: str) -> Application:
    """Return what ``app`` stands for.

    Args:
        app: an ASGI or WSGI application; a function without arguments that returns one; or
            ``"module:attribute"``, which names either.
        root_path: the folder where modules are looked for beside ``sys.path``, to which it is
            added if the module is there.

    Raises:
        ServeError: there is no such thing, it is neither ASGI nor WSGI, or its module or function
            raised an exception, which is the cause.
    """
    __tracebackhide__ = True
    if isinstance(app, str):
        name, found = app, _import(app, root_path)
    else:
        name, found = _describe(app), app
    if _is_factory(found):
        try:
            found = found()
        except Exception as error:
            raise ServeError(
                "SERVE_START_FAILED", f"{name} raised {type(error).__name__}: {error}"
            ) from error
    interface = tell_interface(found)
    if interface is None or not callable(found):
        raise ServeError(
            "SERVE_NO_APP", f"{name} is neither an ASGI nor a WSGI application", _hint(found)
        )
    return Application(name, found, interface)


def tell_interface(app: object) -> Interface | None:
    """Return how an application is called, ``None`` if that cannot be told.

    A coroutine function, or an object whose ``__call__`` is one, is ASGI. Else the number of
    arguments decides, and where it leaves both open, the name of the first one.
    """
    unwrapped = app
    while isinstance(unwrapped, functools.partial):
        unwrapped = unwrapped.func
    if not callable(app):
        return None
    if inspect.isclass(unwrapped):
        return _interface_of_class(app, unwrapped)
    if _is_async(unwrapped):
        return "asgi3" if _takes(app, 3) else None
    return _interface_by_arguments(app)


def _interface_of_class(app: Callable[..., Any], cls: type) -> Interface | None:
    """Each request makes an instance, which answers it."""
    if hasattr(cls, "__await__") and _takes(app, 3):
        return "asgi3"
    if hasattr(cls, "__iter__") and _takes(app, 2):
        return "wsgi"
    if _is_async(cls.__call__) and _takes(app, 1) and not _takes(app, 0):
        return "asgi2"
    return None


def _interface_by_arguments(app: Callable[..., Any]) -> Interface | None:
    first = _first_argument(app)
    if _takes(app, 3) and (first == "scope" or not _takes(app, 2)):
        return "asgi3"
    if _takes(app, 2) and (first in ("environ", "env") or not _takes(app, 3)):
        return "wsgi"
    if _takes(app, 1) and first == "scope":
        return "asgi2"
    return None


def _is_async(function: object) -> bool:
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(
        getattr(function, "__call__", None)  # noqa: B004 - the method itself is wanted
    )


def _takes(function: Callable[..., Any], count: int) -> bool:
    try:
        inspect.signature(function).bind(*(None,) * count)
    except (TypeError, ValueError):  # too few or too many, or a function without a signature
        return False
    return True


def _first_argument(function: Callable[..., Any]) -> str:
    try:
        return next(iter(inspect.signature(function).parameters), "")
    except (TypeError, ValueError):
        return ""


def _is_factory(found: object) -> bool:
    """Whether it is a function that returns an application, such as ``create_app``."""
    function = found.func if isinstance(found, functools.partial) else found
    return (
        callable(found)
        and (inspect.isfunction(function) or inspect.ismethod(function))
        and not inspect.iscoroutinefunction(function)
        and _takes(found, 0)
        and tell_interface(found) is None
    )


def _import(name: str, root_path: str) -> Any:
    __tracebackhide__ = True
    module_name, _, attribute = name.partition(":")
    if not (module_name and attribute):
        raise ServeError("SERVE_NO_APP", f"{name!r} is not like module:attribute")
    try:
        found: Any = _import_module(module_name, root_path)
    except Exception as error:
        missing = error.name if isinstance(error, ModuleNotFoundError) else None
        if missing and f"{module_name}.".startswith(f"{missing}."):
            raise ServeError(
                "SERVE_NO_APP", f"there is no module {missing!r} in {root_path} or in sys.path"
            ) from None
        raise ServeError(
            "SERVE_START_FAILED",
            f"the import of {module_name} raised {type(error).__name__}: {error}",
        ) from error
    for part in attribute.split("."):
        try:
            found = getattr(found, part)
        except AttributeError:
            raise ServeError("SERVE_NO_APP", f"{name}: there is no {part!r} in it") from None
    return found


def _import_module(name: str, root_path: str) -> Any:
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        if root_path in sys.path or error.name != name.partition(".")[0]:
            raise
    # For good: an application may import its other modules with its first request.
    sys.path.insert(0, root_path)
    return import_module(name)


def _describe(app: object) -> str:
    """Return a name for an object that the user has given."""
    while isinstance(app, functools.partial):
        app = app.func
    named = app if hasattr(app, "__qualname__") else type(app)
    return f"{named.__module__}.{named.__qualname__}"


def _hint(app: object) -> str:
    if type(app).__module__.partition(".")[0] == "aiohttp":
        return (
            "aiohttp has a server of its own: run it on the fixture exposed_port or exposed_socket"
        )
    if inspect.isclass(app):
        return f"It is a class: give an instance of it. {_SIGNATURES}"
    return _SIGNATURES

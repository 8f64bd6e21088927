"""Finding an application, and telling ASGI from WSGI."""

import functools
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from pytest_synth_tunnels.serving.application import find_application, tell_interface
from pytest_synth_tunnels.serving.errors import ServeError


async def asgi(scope: Any, receive: Any, send: Any) -> None: ...


def wsgi(environ: Any, start_response: Any) -> Any: ...


def sync_asgi(scope: Any, receive: Any, send: Any) -> Any:
    return asgi(scope, receive, send)


def asgi2(scope: Any) -> Any: ...


def wsgi_with_default(environ: Any, start_response: Any, debug: bool = False) -> Any: ...


def asgi_with_default(scope: Any, receive: Any, send: Any = None) -> Any: ...


@functools.wraps(asgi)
def wrapped_asgi(*arguments: Any, **named: Any) -> Any:
    return asgi(*arguments, **named)


@functools.wraps(wsgi)
def wrapped_wsgi(*arguments: Any, **named: Any) -> Any:
    return wsgi(*arguments, **named)


async def asgi_with_settings(settings: Any, scope: Any, receive: Any, send: Any) -> None: ...


class AsgiObject:
    async def __call__(self, scope: Any, receive: Any, send: Any) -> None: ...

    async def method(self, scope: Any, receive: Any, send: Any) -> None: ...

    def wsgi_method(self, environ: Any, start_response: Any) -> Any: ...


class SyncAsgiObject:
    def __call__(self, scope: Any, receive: Any, send: Any) -> Any: ...


class WsgiObject:
    def __call__(self, environ: Any, start_response: Any) -> Any: ...


class AsgiClass:
    def __init__(self, scope: Any, receive: Any, send: Any) -> None: ...

    def __await__(self) -> Iterator[None]: ...


class Asgi2Class:
    def __init__(self, scope: Any) -> None: ...

    async def __call__(self, receive: Any, send: Any) -> None: ...


class WsgiClass:
    def __init__(self, environ: Any, start_response: Any) -> None: ...

    def __iter__(self) -> Iterator[bytes]: ...


def flask() -> Any:
    import flask

    return flask.Flask("shop")


def flask_behind_proxy() -> Any:
    from werkzeug.middleware.proxy_fix import ProxyFix

    return ProxyFix(flask().wsgi_app)


def django(kind: str) -> Any:
    import django.core.handlers.asgi
    import django.core.handlers.wsgi

    handler: Any = getattr(django.core.handlers, kind)
    cls = handler.ASGIHandler if kind == "asgi" else handler.WSGIHandler
    return cls.__new__(cls)  # without settings, which it would load


def fastapi() -> Any:
    return pytest.importorskip("fastapi").FastAPI()


def starlette() -> Any:
    return pytest.importorskip("starlette.applications").Starlette()


@pytest.mark.parametrize(
    ("make", "interface"),
    [
        (lambda: asgi, "asgi3"),
        (lambda: sync_asgi, "asgi3"),
        (lambda: asgi2, "asgi2"),
        (lambda: wsgi, "wsgi"),
        (lambda: wsgi_with_default, "wsgi"),
        (lambda: asgi_with_default, "asgi3"),
        (lambda: wrapped_asgi, "asgi3"),
        (lambda: wrapped_wsgi, "wsgi"),
        (lambda: lambda environ, start_response: [], "wsgi"),
        (lambda: functools.partial(asgi_with_settings, {}), "asgi3"),
        (lambda: functools.partial(functools.partial(asgi)), "asgi3"),
        (lambda: functools.partial(AsgiObject()), "asgi3"),
        (lambda: functools.partial(wsgi_with_default, debug=True), "wsgi"),
        (AsgiObject, "asgi3"),
        (lambda: AsgiObject().method, "asgi3"),
        (lambda: AsgiObject().wsgi_method, "wsgi"),
        (SyncAsgiObject, "asgi3"),
        (WsgiObject, "wsgi"),
        (lambda: AsgiClass, "asgi3"),
        (lambda: Asgi2Class, "asgi2"),
        (lambda: WsgiClass, "wsgi"),
        (flask, "wsgi"),
        (flask_behind_proxy, "wsgi"),
        (lambda: django("asgi"), "asgi3"),
        (lambda: django("wsgi"), "wsgi"),
        (fastapi, "asgi3"),
        (starlette, "asgi3"),
    ],
)
def test_which_interface(make: Callable[[], Any], interface: str) -> None:
    assert tell_interface(make()) == interface


async def handler(request: Any) -> None: ...


def anything(*arguments: Any) -> Any: ...


@pytest.mark.parametrize(
    ("app", "hint"),
    [
        (None, "An ASGI application takes"),
        (8000, "An ASGI application takes"),
        (handler, "An ASGI application takes"),
        (len, "takes (environ, start_response)"),
        (mock.Mock(), "An ASGI application takes"),
        (AsgiObject, "It is a class: give an instance of it."),
        (WsgiObject, "It is a class: give an instance of it."),
    ],
)
def test_what_is_neither(app: object, hint: str) -> None:
    with pytest.raises(ServeError, match="is neither an ASGI nor a WSGI application") as caught:
        find_application(app, "/")

    assert caught.value.code == "SERVE_NO_APP"
    assert hint in caught.value.hint


def test_an_application_of_aiohttp_has_a_hint_of_its_own() -> None:
    class Application:
        def __call__(self) -> Any: ...

    Application.__module__ = "aiohttp.web_app"

    with pytest.raises(ServeError, match="aiohttp has a server of its own"):
        find_application(Application(), "/")


@pytest.mark.parametrize(
    ("app", "name"),
    [
        (wsgi, f"{__name__}.wsgi"),
        (functools.partial(asgi), f"{__name__}.asgi"),
        (WsgiObject(), f"{__name__}.WsgiObject"),
    ],
)
def test_an_object_is_called_after_its_type(app: Any, name: str) -> None:
    found = find_application(app, "/")

    assert found.name == name
    assert found.call is app


def test_a_function_without_arguments_returns_the_application() -> None:
    def create_app(config: object = None) -> Any:
        return wsgi

    found = find_application(create_app, "/")

    assert (found.call, found.interface) == (wsgi, "wsgi")
    assert found.name.endswith("create_app")


def test_what_such_a_function_raises_is_the_cause() -> None:
    def create_app() -> Any:
        raise OSError("no database")

    with pytest.raises(ServeError, match="create_app raised OSError: no database") as caught:
        find_application(create_app, "/")

    assert isinstance(caught.value.__cause__, OSError)


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with modules that nobody has imported."""
    before = set(sys.modules)
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "synth_shop").mkdir()
    (tmp_path / "synth_shop" / "__init__.py").write_text("")
    (tmp_path / "synth_shop" / "main.py").write_text(
        "class site:\n"
        "    async def app(scope, receive, send): ...\n"
        "def create_app(): return site.app\n"
        "number = 3\n"
    )
    (tmp_path / "synth_needs.py").write_text("import synth_not_there\n")
    (tmp_path / "synth_raises.py").write_text("1 / 0\n")
    yield tmp_path
    for name in set(sys.modules) - before:
        if name.startswith("synth_"):
            del sys.modules[name]


@pytest.mark.parametrize("attribute", ["site.app", "create_app"])
def test_a_name_is_found_from_the_root(root: Path, attribute: str) -> None:
    found = find_application(f"synth_shop.main:{attribute}", str(root))

    assert found.name == f"synth_shop.main:{attribute}"
    assert found.interface == "asgi3"
    assert sys.path[0] == str(root)


def test_a_name_that_is_found_without_the_root_leaves_the_path_alone(root: Path) -> None:
    before = list(sys.path)

    assert find_application(f"{__name__}:wsgi", str(root)).interface == "wsgi"

    assert sys.path == before


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("synth_shop", "'synth_shop' is not like module:attribute"),
        (":app", "':app' is not like module:attribute"),
        ("synth_absent:app", "there is no module 'synth_absent' in /"),
        ("synth_shop.absent:app", "there is no module 'synth_shop.absent' in /"),
        ("synth_shop.main:absent", "synth_shop.main:absent: there is no 'absent' in it"),
        ("synth_shop.main:site.absent", "there is no 'absent' in it"),
        ("synth_shop.main:number", "synth_shop.main:number is neither an ASGI nor a WSGI"),
    ],
)
def test_a_name_that_names_nothing(root: Path, name: str, message: str) -> None:
    with pytest.raises(ServeError) as caught:
        find_application(name, str(root))

    assert message in str(caught.value)
    assert caught.value.code == "SERVE_NO_APP"


@pytest.mark.parametrize(
    ("name", "cause"),
    [("synth_needs:app", ModuleNotFoundError), ("synth_raises:app", ZeroDivisionError)],
)
def test_what_an_import_raises_is_the_cause(root: Path, name: str, cause: type[Exception]) -> None:
    with pytest.raises(ServeError, match=f"the import of .* raised {cause.__name__}") as caught:
        find_application(name, str(root))

    assert isinstance(caught.value.__cause__, cause)
    assert caught.value.code == "SERVE_START_FAILED"

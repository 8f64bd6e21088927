"""Flask: external links, redirects, cookies and flashed forms."""

from collections.abc import Iterator

import flask
import httpx
import pytest
from werkzeug.serving import make_server

from conftest import Prefixed, serving

web = flask.Flask(__name__)
web.secret_key = "secret"


@web.get("/")
def index() -> str:
    return flask.url_for("counted", _external=True)


@web.get("/go")
def go() -> flask.typing.ResponseReturnValue:
    return flask.redirect(flask.url_for("counted"))


@web.get("/counted")
def counted() -> str:
    flask.session["count"] = flask.session.get("count", 0) + 1
    return str(flask.session["count"])


@pytest.fixture(scope="module")
def app(exposed_port: int) -> Iterator[None]:
    with serving(make_server("127.0.0.1", exposed_port, Prefixed(web), threaded=True)):
        yield


def test_links_redirects_and_sessions(url: str) -> None:
    with httpx.Client(follow_redirects=True, timeout=60) as browser:
        link = browser.get(f"{url}/").text
        assert link == f"{url}/counted"
        assert [browser.get(link).text, browser.get(f"{url}/go").text] == ["1", "2"]

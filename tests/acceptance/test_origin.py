"""An origin of its own: the same callers and the same app, through the tunnel and without it."""

import pytest

from .conftest import CountingBackend, RuntimeDirectory

pytestmark = pytest.mark.acceptance

APP = """
import hashlib, json, threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

import pytest

class App(BaseHTTPRequestHandler):
    # What real frameworks do with Host, Origin, cookies, Digest and Destination.
    protocol_version = "HTTP/1.1"

    def answer(self, status=200, body="", **headers):
        data = body.encode()
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def do_GET(self):
        path = urlsplit(self.path).path
        host = self.headers["Host"]
        if path == "/absolute":
            self.answer(302, Location=f"http://{host}/landed")
        elif path == "/rooted":
            self.answer(302, Location="/landed")
        elif path == "/login":
            self.answer(302, Location="/account/", Set_Cookie="sid=1; Path=/account; HttpOnly")
        elif path == "/logout":
            gone = "sid=; Path=/account; Expires=Thu, 01 Jan 1970 00:00:00 GMT"
            self.answer(200, "bye", Set_Cookie=gone)
        elif path == "/account/":
            self.answer(200 if "sid=1" in self.headers.get("Cookie", "") else 401, "account")
        elif path == "/digest":
            self.digest()
        elif path == "/link":
            self.answer(200, "linked", Link="</next>; rel=next", Content_Location="/self")
        elif path == "/page":
            self.answer(200, '<script src="/static/app.js"></script>')
        else:
            self.answer(200, json.dumps({"path": self.path, **self.seen()}))

    def seen(self):
        return {name.lower(): value for name, value in self.headers.items()}

    def do_POST(self):
        # As Django: the origin of a form is the host that the app is asked by.
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        here = f"http://{self.headers['Host']}"
        allowed = self.headers["Origin"] == here and self.headers["Referer"].startswith(f"{here}/")
        self.answer(200 if allowed else 403, "posted")

    def do_COPY(self):
        # As WebDAV servers: a destination on another host or outside of the tree is refused.
        there = urlsplit(self.headers["Destination"])
        ok = there.netloc == self.headers["Host"] and there.path == "/files/b"
        self.answer(201 if ok else 409, Location=f"http://{self.headers['Host']}/files/b")

    def digest(self):
        given = self.headers.get("Authorization", "")
        if given.startswith("Digest "):
            parts = dict(p.strip().split("=", 1) for p in given[7:].split(", "))
            parts = {name: value.strip('"') for name, value in parts.items()}
            md5 = lambda text: hashlib.md5(text.encode()).hexdigest()
            a1, a2 = md5("u:realm:p"), md5(f"GET:{self.path}")
            if parts["uri"] == self.path and parts["response"] == md5(f"{a1}:n0:{a2}"):
                self.answer(200, "secret")
                return
        self.answer(401, WWW_Authenticate='Digest realm="realm", nonce="n0"')

    def log_message(self, *_):
        pass

@pytest.fixture(scope="session", autouse=True)
def app(exposed_port):
    server = ThreadingHTTPServer(("127.0.0.1", exposed_port), App)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield
    server.shutdown()
    server.server_close()

class Caller:
    # A browser or an HTTP client with a base URL, cookies and a password.

    def __init__(self, base, headers):
        from http.cookiejar import CookieJar
        from urllib import request

        self.base = base
        passwords = request.HTTPPasswordMgrWithDefaultRealm()
        passwords.add_password(None, base, "u", "p")
        self.opener = request.build_opener(
            request.ProxyHandler({}),
            request.HTTPCookieProcessor(CookieJar()),
            request.HTTPDigestAuthHandler(passwords),
        )
        self.opener.addheaders = list(headers.items())

    def __call__(self, url, method="GET", data=None, **headers):
        from urllib.error import HTTPError
        from urllib.parse import urljoin
        from urllib.request import Request

        # As a browser does: an absolute path is one of the origin.
        url = urljoin(f"{self.base}/", url)
        headers = {name.replace("_", "-"): value for name, value in headers.items()}
        try:
            with self.opener.open(Request(url, data, headers, method=method), timeout=20) as answer:
                return answer.status, answer.url, answer.read().decode(), answer.headers
        except HTTPError as error:
            with error:
                return error.code, error.url, error.read().decode(), error.headers

@pytest.fixture(params=["direct", "tunnel"])
def call(request, synth_lease, exposed_port):
    if request.param == "direct":
        return Caller(f"http://127.0.0.1:{exposed_port}", {})
    return Caller(synth_lease.public_url, dict(synth_lease.headers))
"""
"""A conftest.py: an app, and a caller that reaches it directly and through the tunnel."""

BOTH_STYLES = """
import json

def test_redirects(call):
    for path in ("absolute", "rooted"):
        status, url, body, _ = call(path)
        assert (status, url) == (200, f"{call.base}/landed")
        assert json.loads(body)["path"] == "/landed"

def test_cookies_with_a_path_of_the_app_s(call):
    assert call("login")[:2] == (200, f"{call.base}/account/")
    assert call("account/")[0] == 200
    assert call("logout")[0] == 200
    assert call("account/")[0] == 401

def test_a_form_is_posted_from_its_own_origin(call):
    origin = "/".join(call.base.split("/")[:3])
    assert call("form", "POST", b"a=1", Origin=origin, Referer=f"{call.base}/form")[0] == 200
    evil = "http://evil.test"
    assert call("form", "POST", b"a=1", Origin=evil, Referer=f"{evil}/")[0] == 403

def test_copy_has_a_destination(call):
    status, _, _, headers = call("files/a", "COPY", Destination=f"{call.base}/files/b")
    assert (status, headers["Location"]) == (201, f"{call.base}/files/b")

def test_the_app_sees_the_path_as_it_was_sent(call):
    seen = json.loads(call(f"{call.base}/a%2Fb//c;d=1?x=%20&y")[2])
    assert seen["path"] == "/a%2Fb//c;d=1?x=%20&y"
"""

ROOT = """
import json

def test_the_app_sees_the_host_that_the_caller_used(call):
    seen = json.loads(call("/x")[2])
    assert f"http://{seen['host']}" == call.base
    assert "x-forwarded-prefix" not in seen

def test_absolute_paths_stay_inside(call):
    page = call("/page")[2]
    src = page.split('"')[1]
    assert json.loads(call(src)[2])["path"] == "/static/app.js"
    assert json.loads(call("/socket.io/?EIO=4")[2])["path"] == "/socket.io/?EIO=4"

def test_headers_that_name_the_app(call):
    headers = call("/link")[3]
    assert (headers["Link"], headers["Content-Location"]) == ("</next>; rel=next", "/self")
    assert call("/absolute")[1] == f"{call.base}/landed"

def test_digest(call):
    assert call("/digest")[::2][:2] == (200, "secret")

def test_any_name_of_this_machine(synth_lease):
    from conftest import Caller
    port = synth_lease.public_url.rpartition(":")[2]
    call = Caller(f"http://localhost:{port}", dict(synth_lease.headers))
    assert json.loads(call("/x")[2])["host"] == f"localhost:{port}"
    assert call("/absolute")[1] == f"http://localhost:{port}/landed"
"""

WAYS = {"plain": [], "n2": ["-n", "2"]}


@pytest.mark.parametrize("arguments", WAYS.values(), ids=WAYS)
def test_at_the_root_all_is_as_without_a_tunnel(
    pytester: pytest.Pytester, runtime: RuntimeDirectory, arguments: list[str]
) -> None:
    pytester.makeconftest(APP)
    pytester.makepyfile(test_both=BOTH_STYLES, test_root=ROOT)

    result = pytester.runpytest_subprocess(*arguments)

    result.assert_outcomes(passed=19)
    runtime.assert_nothing_left()


@pytest.mark.parametrize("arguments", WAYS.values(), ids=WAYS)
def test_below_a_path_what_can_be_mapped_is(
    pytester: pytest.Pytester, runtime: RuntimeDirectory, arguments: list[str]
) -> None:
    pytester.makeconftest(APP)
    pytester.makepyfile(BOTH_STYLES)

    result = pytester.runpytest_subprocess("--synth-tunnels-url-style=path", *arguments)

    result.assert_outcomes(passed=10)
    runtime.assert_nothing_left()


def test_on_a_hosted_backend_what_can_be_mapped_is(
    pytester: pytest.Pytester, hosted: CountingBackend
) -> None:
    pytester.makeconftest(APP)
    pytester.makepyfile(BOTH_STYLES)

    pytester.runpytest_subprocess().assert_outcomes(passed=10)

    result = pytester.runpytest_subprocess("--synth-tunnels-url-style=root")
    result.stderr.fnmatch_lines(
        ["*--synth-tunnels-url-style is 'root', and a hosted relay gives every lease a URL with *"]
    )


@pytest.mark.parametrize("arguments", WAYS.values(), ids=WAYS)
def test_without_a_token_a_browser_needs_no_header(
    pytester: pytest.Pytester, arguments: list[str]
) -> None:
    pytester.makeconftest(APP)
    pytester.makepyfile(
        """
        import json
        from conftest import Caller

        def test_no_header(synth_lease):
            assert (dict(synth_lease.headers), synth_lease.worker_token) == ({}, "")
            assert json.loads(Caller(synth_lease.public_url, {})("/x")[2])["path"] == "/x"
            assert synth_lease.public_url in repr(synth_lease)

        def test_the_origin_is_no_secret(synth_lease):
            assert not synth_lease.public_url, "shown"
        """
    )

    result = pytester.runpytest_subprocess("--synth-tunnels-require-token=false", *arguments)

    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(["E * 'http://127.0.0.1:*'*"])


def test_leases_of_a_test_s_own(pytester: pytest.Pytester) -> None:
    pytester.makeconftest(APP)
    pytester.makepyfile(
        """
        import json

        import pytest
        from conftest import Caller
        from pytest_synth_tunnels import KeeperError

        def seen(lease, path="/x"):
            return json.loads(Caller(lease.public_url, dict(lease.headers))(path.lstrip("/"))[2])

        def test_a_closed_lease_answers_410(synth_expose, exposed_port):
            with synth_expose(exposed_port) as lease:
                assert seen(lease)["path"] == "/x"
            status, _, body, _ = Caller(lease.public_url, {})("/x")
            assert (status, json.loads(body)["code"]) == (410, "TUNNEL_LEASE_EXPIRED")

        @pytest.mark.parametrize(
            ("target", "host_header", "host"),
            [
                ("{port}", None, "{origin}"),
                ("{port}", "auto", "{origin}"),
                ("{port}", "public", "{origin}"),
                ("{port}", "target", "127.0.0.1:{port}"),
                ("{port}", "shop.test:81", "shop.test:81"),
                ("http://localhost:{port}", None, "localhost:{port}"),
                ("http://localhost:{port}", "public", "{origin}"),
                ("http://localhost:{port}", "target", "localhost:{port}"),
            ],
        )
        def test_the_host(synth_expose, exposed_port, target, host_header, host):
            with synth_expose(target.format(port=exposed_port), host_header=host_header) as lease:
                origin = lease.public_url.removeprefix("http://")
                assert seen(lease)["host"] == host.format(port=exposed_port, origin=origin)

        def test_a_path_that_the_app_knows(synth_expose, exposed_port):
            with synth_expose(exposed_port, url_style="path", strip_prefix=False) as lease:
                prefix = "/" + lease.public_url.split("/", 3)[3]
                found = seen(lease)
                assert found["path"] == f"{prefix}/x"
                assert "x-forwarded-prefix" not in found

        def test_a_link_that_lost_the_path(synth_expose, exposed_port):
            with synth_expose(exposed_port, url_style="path") as lease:
                status, _, body, _ = Caller(lease.public_url, dict(lease.headers))("/login")
                assert status == 404
                assert "lost the path of its lease's public URL" in body
                assert "synth_tunnels_url_style = root" in body

        @pytest.mark.parametrize(
            ("options", "words"),
            [
                ({"url_style": "host"}, "url_style must be 'root' or 'path', not 'host'"),
                ({"url_style": "root", "provider": "ngrok"}, "the provider ngrok gives"),
                ({"host_header": "a b"}, "host_header 'a b'"),
            ],
        )
        def test_what_cannot_be(synth_expose, exposed_port, options, words):
            with pytest.raises(KeeperError, match=words):
                synth_expose(exposed_port, **options)
        """
    )

    pytester.runpytest_subprocess().assert_outcomes(passed=14)


def test_the_hook_and_the_settings_say_the_same(pytester: pytest.Pytester) -> None:
    pytester.makeconftest(
        APP
        + """
from dataclasses import replace

def pytest_synth_tunnels_settings(config, settings):
    return replace(settings, strip_prefix=False, host_header="target")
"""
    )
    pytester.makeini("[pytest]\nsynth_tunnels_url_style = path\n")
    pytester.makepyfile(
        """
        import json

        def test_both(synth_lease, synth_settings, exposed_port, call):
            seen = json.loads(call("x")[2])
            assert seen["host"] == f"127.0.0.1:{exposed_port}"
            assert f"{call.base}/x".endswith(seen["path"])
            sources = synth_settings.sources
            assert sources["url_style"] == "synth_tunnels_url_style in the ini file"
            assert sources["strip_prefix"] == "pytest_synth_tunnels_settings"
        """
    )

    pytester.runpytest_subprocess().assert_outcomes(passed=2)

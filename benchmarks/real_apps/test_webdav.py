"""WebDAV: COPY and MOVE name their destination by a URL; and Digest, which hashes the path."""

import shutil
import subprocess
from collections.abc import Iterator

import httpx
import pytest
from cheroot.wsgi import Server
from wsgidav.wsgidav_app import WsgiDAVApp

USER = ("ada", "lovelace")


def dav(path: str, *, digest: bool) -> WsgiDAVApp:
    return WsgiDAVApp(
        {
            "provider_mapping": {"/": path},
            "simple_dc": {"user_mapping": {"*": {USER[0]: {"password": USER[1]}}}},
            "http_authenticator": {
                "accept_basic": not digest,
                "accept_digest": digest,
                "default_to_digest": digest,
            },
            "logging": {"enable": False},
            "verbose": 0,
        }
    )


@pytest.fixture(scope="module", params=["basic", "digest"])
def app(
    request: pytest.FixtureRequest, exposed_port: int, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    import threading

    path = tmp_path_factory.mktemp("dav")
    served = dav(str(path), digest=request.param == "digest")
    server = Server(("127.0.0.1", exposed_port), served)
    server.prepare()
    thread = threading.Thread(target=server.serve)
    thread.start()
    yield request.param
    server.stop()
    thread.join()


def test_copy_and_move(app: str, url: str) -> None:
    auth = httpx.BasicAuth(*USER) if app == "basic" else httpx.DigestAuth(*USER)
    if app == "digest" and "/s/" in url:
        pytest.skip("Digest hashes the path that the caller sees: it needs a root")
    with httpx.Client(auth=auth, timeout=60) as client:
        assert client.put(f"{url}/one.txt", content=b"one").status_code in (201, 204)
        for method, source, target in (("COPY", "one", "two"), ("MOVE", "one", "three")):
            done = client.request(
                method,
                f"{url}/{source}.txt",
                headers={"Destination": f"{url}/{target}.txt", "Overwrite": "T"},
            )
            assert done.status_code in (201, 204), done.text
        assert client.get(f"{url}/one.txt").status_code == 404
        assert client.get(f"{url}/two.txt").text == client.get(f"{url}/three.txt").text == "one"
        listing = client.request("PROPFIND", f"{url}/", headers={"Depth": "1"})
        assert listing.status_code == 207


def test_curl_digest(app: str, url: str) -> None:
    if app == "basic" or "/s/" in url or not shutil.which("curl"):
        pytest.skip("Digest at a root, with curl")
    curl = ["curl", "--silent", "--show-error", "--fail", "--max-time", "60", "--noproxy", "*"]
    user = ["--digest", "--user", ":".join(USER)]
    subprocess.run([*curl, *user, "--data-binary", "x", "-X", "PUT", f"{url}/curl.txt"], check=True)
    done = subprocess.run([*curl, *user, f"{url}/curl.txt"], capture_output=True, check=True)
    assert done.stdout == b"x"

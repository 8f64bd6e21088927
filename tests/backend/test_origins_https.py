"""Origins that speak https, and what real callers make of certificates, good and bad ones."""

import asyncio
import os
import shutil
import ssl
import sys
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import trustme

from pytest_synth_tunnels.backend.binding import Binding
from pytest_synth_tunnels.sdk import requests

from ..support.live_tunnels import Lease, Tunnels

AUTHORITY = trustme.CA()
NOW = datetime.now(UTC)
LEAVES = {
    "good": AUTHORITY.issue_cert("127.0.0.1"),
    "of another host": AUTHORITY.issue_cert("other.test"),
    "expired": AUTHORITY.issue_cert(
        "127.0.0.1", not_before=NOW - timedelta(days=9), not_after=NOW - timedelta(days=1)
    ),
}

PYTHON = """
import ssl, sys, urllib.request
from urllib.error import URLError
context = ssl.create_default_context(cafile=sys.argv[2])
opener = urllib.request.build_opener(urllib.request.HTTPSHandler(context=context))
try:
    print(opener.open(sys.argv[1], timeout=20).read().decode())
except URLError as error:
    print("refused:", type(error.reason).__name__)
"""
NODE = """
fetch(process.argv[1]).then((answer) => answer.text()).then(console.log)
    .catch((error) => console.log("refused:", error.cause.code))
"""

Caller = Callable[[str], list[str]]
CALLERS: dict[str, Caller] = {
    "python": lambda url: [sys.executable, "-c", PYTHON, url, "ca.pem"],
    "curl": lambda url: ["curl", "-sS", "--cacert", "ca.pem", url],
    "old curl": lambda url: [
        *("curl", "-sS", "--cacert", "ca.pem", "--tls-max", "1.1"),
        *("--ciphers", "DEFAULT:@SECLEVEL=0", url),
    ],
    "node": lambda url: ["node", "-e", NODE, url],
}
REFUSED = {"python": "refused: SSLCert", "curl": "SSL", "old curl": "TLS|SSL", "node": "refused: "}


async def said(folder: Path, *command: str) -> str:
    environ = {name: text for name, text in os.environ.items() if "proxy" not in name.lower()}
    process = await asyncio.create_subprocess_exec(
        *command,
        cwd=folder,
        env=environ | {"NODE_EXTRA_CA_CERTS": "ca.pem"},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    return (await process.communicate())[0].decode()


def with_certificate(leaf: str, test: Callable[[Tunnels, Any, Lease], Awaitable[None]]) -> None:
    """Run a test with an app at an https origin that wants no token."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    LEAVES[leaf].configure_cert(context)

    async def main() -> None:
        binding = Binding(ssl_context=context)
        async with asyncio.timeout(60), Tunnels(binding=binding) as tunnels:
            app = await tunnels.app("app")
            lease = tunnels.lease(app.port, metadata={"require_token": False})
            origin = await tunnels.backend.open_origin(lease.id)
            assert origin.public_url.startswith("https://127.0.0.1:")
            origins = {"": origin.public_url}
            await tunnels.attach(lease, {"": app.port}, websocket=False, origins=origins)
            app.url = origin.public_url  # type: ignore[attr-defined]
            await test(tunnels, app, lease)

    asyncio.run(main())


@pytest.mark.parametrize("leaf", LEAVES)
def test_callers_check_certificates(leaf: str, tmp_path: Path) -> None:
    AUTHORITY.cert_pem.write_to_path(tmp_path / "ca.pem")
    callers = [name for name in CALLERS if name == "python" or shutil.which(name.split()[-1])]

    async def test(tunnels: Tunnels, app: Any, lease: Lease) -> None:
        commands = [CALLERS[name](f"{app.url}/x") for name in callers]
        found = await asyncio.gather(*(said(tmp_path, *command) for command in commands))
        for name, output in zip(callers, found, strict=True):
            if leaf == "good" and name != "old curl":
                assert output.strip() == "app /x", name
            else:
                assert any(word in output for word in REFUSED[name].split("|")), (name, output)
                assert "app" not in output
        reached = sum(name != "old curl" for name in callers) if leaf == "good" else 0
        assert len(app.seen) == reached
        assert {tuple(seen.get("x-forwarded-proto")) for seen in app.seen} <= {("https",)}

    with_certificate(leaf, test)


def test_a_lease_that_is_over_says_so_by_https_too(tmp_path: Path) -> None:
    AUTHORITY.cert_pem.write_to_path(tmp_path / "ca.pem")

    async def test(tunnels: Tunnels, app: Any, lease: Lease) -> None:
        tunnels.backend.call(requests.close_synth_lease(lease.id))
        context = ssl.create_default_context(cafile=tmp_path / "ca.pem")
        port = int(app.url.rpartition(":")[2])
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
        writer.write(b"GET / HTTP/1.0\r\nHost: a\r\n\r\n")
        assert (await reader.read()).startswith(b"HTTP/1.1 410 ")
        writer.close()

    with_certificate("good", test)

"""A run's certificates: what they are good for, and what is left of their keys."""

import os
import ssl
import stat
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from pytest_synth_tunnels.keeper.certificates import Certificates, make_certificates
from pytest_synth_tunnels.keeper.errors import KeeperRequestError

HOSTS = ["host.docker.internal", "127.0.0.1", "::1", "localhost", "127.0.0.1"]


def shake_hands(server: ssl.SSLContext, client: ssl.SSLContext, host: str) -> str | None:
    """Shake hands in memory; return the protocol that both speak."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = (
        client.wrap_bio(to_client, to_server, server_hostname=host),
        server.wrap_bio(to_server, to_client, server_side=True),
    )
    open_ends = list(ends)
    while open_ends:
        for end in list(open_ends):
            try:
                end.do_handshake()
                open_ends.remove(end)
            except ssl.SSLWantReadError:
                pass
    return ends[0].version()


@pytest.fixture
def made(tmp_path: Path) -> Certificates:
    return make_certificates(HOSTS, str(tmp_path))


def strict(made: Certificates) -> ssl.SSLContext:
    """As Python 3.13 checks by default."""
    context = ssl.create_default_context(cafile=made.ca_file)
    context.verify_flags |= ssl.VERIFY_X509_STRICT | ssl.VERIFY_X509_PARTIAL_CHAIN
    return context


@pytest.mark.parametrize("host", HOSTS[:4])
def test_strict_callers_trust_them_for_their_hosts(made: Certificates, host: str) -> None:
    assert shake_hands(made.server_context, strict(made), host) == "TLSv1.3"
    assert shake_hands(made.server_context, made.client_context, host) == "TLSv1.3"


@pytest.mark.parametrize(
    "context", [strict, lambda made: ssl.create_default_context()], ids=["other host", "the world"]
)
def test_nobody_else_does(
    made: Certificates, context: Callable[[Certificates], ssl.SSLContext]
) -> None:
    host = "other.test" if context is strict else "127.0.0.1"
    with pytest.raises(ssl.SSLCertVerificationError):
        shake_hands(made.server_context, context(made), host)


@pytest.mark.parametrize(
    ("newest", "is_spoken"), [(ssl.TLSVersion.TLSv1_2, True), (ssl.TLSVersion.TLSv1_1, False)]
)
@pytest.mark.filterwarnings("ignore:ssl.TLSVersion.TLSv1_1 is deprecated")
def test_what_is_spoken(made: Certificates, newest: ssl.TLSVersion, is_spoken: bool) -> None:
    client = strict(made)
    client.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
    client.maximum_version = newest
    client.set_ciphers("DEFAULT:@SECLEVEL=0")
    if is_spoken:
        assert shake_hands(made.server_context, client, "localhost") == "TLSv1.2"
    else:
        with pytest.raises(ssl.SSLError, match=r"(?i)protocol.version|unsupported.protocol"):
            shake_hands(made.server_context, client, "localhost")


def test_callers_cannot_ask_for_handshakes_again_and_again(made: Certificates) -> None:
    assert made.server_context.options & ssl.OP_NO_RENEGOTIATION


def test_no_key_is_left(made: Certificates, tmp_path: Path) -> None:
    assert [path.name for path in tmp_path.iterdir()] == ["ca.pem"]
    text = (tmp_path / "ca.pem").read_text()
    assert text.count("BEGIN CERTIFICATE") == 1
    assert "PRIVATE KEY" not in text
    assert "PRIVATE" not in repr(made)


@pytest.mark.skipif(sys.platform == "win32", reason="files have modes on POSIX alone")
def test_the_key_s_file_is_its_owner_s_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    modes = []
    load = ssl.SSLContext.load_cert_chain

    def load_and_note(context: ssl.SSLContext, path: str) -> None:
        modes.append(stat.S_IMODE(os.stat(path).st_mode))
        load(context, path)

    monkeypatch.setattr(ssl.SSLContext, "load_cert_chain", load_and_note)
    old = os.umask(0)
    try:
        make_certificates(["localhost"], str(tmp_path))
    finally:
        os.umask(old)
    assert modes == [0o600]


def test_without_a_folder_there_is_no_file() -> None:
    made = make_certificates(["localhost"], None)
    assert made.ca_file == ""
    assert shake_hands(made.server_context, made.client_context, "localhost")


def test_a_host_that_no_certificate_can_have(tmp_path: Path) -> None:
    with pytest.raises(KeeperRequestError, match="no certificate can be made for") as caught:
        make_certificates(["a_b.test"], str(tmp_path))
    assert caught.value.code == "TLS_HOST_INVALID"
    assert "synth_tunnels_public_host" in caught.value.hint


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(KeeperRequestError) as caught:
        make_certificates(["localhost"], str(tmp_path / "missing"))
    assert caught.value.code == "TLS_NOT_STARTED"


def test_without_the_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "trustme", None)
    with pytest.raises(KeeperRequestError) as caught:
        make_certificates(["localhost"], str(tmp_path))
    assert caught.value.code == "TLS_EXTRA_MISSING"
    assert "pytest-synth-tunnels[tls]" in caught.value.hint

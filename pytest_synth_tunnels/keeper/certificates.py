"""Certificates for a run's https: made for its hosts by a certificate authority that is forgotten.

The authority's key stays in memory and is dropped as soon as it has signed; the server's key is
in a file of the run directory, for its owner alone, for the moment in which OpenSSL reads it. What
stays is the authority's certificate, which callers need and which is no secret.
"""

import os
import ssl
import tempfile
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

from .errors import KeeperRequestError

if TYPE_CHECKING:
    import trustme

__all__ = ["Certificates", "make_certificates"]

_NAME: Final = "pytest-synth-tunnels"
_SINCE: Final = timedelta(days=1)
"""A container's clock may be behind."""
_FOR: Final = timedelta(days=30)
"""Some callers accept no certificate that is valid for years."""


@dataclass(frozen=True, slots=True)
class Certificates:
    """What a run needs for https.

    Attributes:
        server_context: for the sockets that listen.
        client_context: for callers in this process: it trusts the authority alone.
        ca_file: the authority's certificate, as a PEM file; empty where there is no folder for it.
    """

    server_context: ssl.SSLContext = field(repr=False)
    client_context: ssl.SSLContext = field(repr=False)
    ca_file: str


def make_certificates(hosts: Iterable[str], folder: str | None) -> Certificates:
    """Make a certificate authority and a certificate for these hosts.

    Args:
        hosts: names and addresses.
        folder: for the authority's certificate; ``None`` to keep it in memory.

    Raises:
        KeeperRequestError: the extra ``tls`` is not installed, no certificate can have such a
            host, or a file cannot be written.
    """
    try:
        import trustme
    except ImportError:
        raise KeeperRequestError(
            "TLS_EXTRA_MISSING",
            "synth_tunnels_tls needs a library that makes certificates, and it is not installed",
            'pip install "pytest-synth-tunnels[tls]"',
        ) from None
    authority = trustme.CA(organization_name=_NAME, organization_unit_name="one test run")
    now = datetime.now(UTC)
    names = list(dict.fromkeys(hosts))
    try:
        leaf = authority.issue_cert(*names, not_before=now - _SINCE, not_after=now + _FOR)
    except ValueError as error:  # idna's errors are
        raise KeeperRequestError(
            "TLS_HOST_INVALID",
            f"no certificate can be made for {', '.join(names)}: {error}",
            "Set synth_tunnels_public_host to a name of letters, digits, dots and hyphens",
        ) from None
    try:
        server_context = _server_context(leaf, folder)
        ca_file = ""
        if folder is not None:
            ca_file = f"{folder}/ca.pem"
            authority.cert_pem.write_to_path(ca_file)
    except OSError as error:
        raise KeeperRequestError(
            "TLS_NOT_STARTED", f"the certificates cannot be written: {error.strerror or error}"
        ) from None
    ca = authority.cert_pem.bytes().decode()
    return Certificates(server_context, ssl.create_default_context(cadata=ca), ca_file)


def _server_context(leaf: "trustme.LeafCert", folder: str | None) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    # A caller of TLS 1.2 could have this process shake hands again and again.
    context.options |= ssl.OP_NO_RENEGOTIATION
    context.set_alpn_protocols(["http/1.1"])
    # OpenSSL reads keys from files alone. The file is for its owner alone from the start.
    descriptor, path = tempfile.mkstemp(dir=folder, prefix="tls-", suffix=".pem")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(leaf.private_key_and_cert_chain_pem.bytes())
        context.load_cert_chain(path)
    finally:
        with suppress(OSError):
            os.unlink(path)
    return context

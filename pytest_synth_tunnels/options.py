"""Every setting as a user gives it: its names, its help and what makes a value of its text.

Loaded with pytest whether or not tunnels are used, so it is small.
"""

import os
import re
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

__all__ = [
    "API_KEY_VARIABLE",
    "BACKEND_URL_VARIABLE",
    "DEFAULT_BACKEND_URL",
    "OPTIONS",
    "PROVIDERS",
    "Option",
    "is_url",
]

API_KEY_VARIABLE = "SYNTH_API_KEY"
BACKEND_URL_VARIABLE = "SYNTH_BACKEND_URL"
DEFAULT_BACKEND_URL = "https://api.usesynth.ai"

_MAX_BODY_BYTES = 8 << 20

PROVIDERS = ("synthtunnel", "ngrok", "cloudflared", "cloudflared-quick")
"""The providers that need no plugin."""


class Option:
    """One setting as a user gives it. (No dataclass, which would cost every pytest start more than
    all the rest of this module.)

    Attributes:
        name: its field in :class:`Settings`.
        parse: makes the value from text; raises ``ValueError`` that says what is wrong.
        help: one line for ``--help``.
        metavar: what ``--help`` calls the value.
        ini: what the ini file calls it.
        flag: what the command line calls it.
        bare: for one of a few choices that needs no value on the command line, those choices, the
            first of which is meant then; else empty. As an optional value it would swallow the
            path that may follow it.
        variable: what the environment calls it.
    """

    def __init__(
        self,
        name: str,
        parse: "Callable[[str], Any]",
        help_line: str,
        metavar: str,
        bare: tuple[str, ...] = (),
    ) -> None:
        self.name = name
        self.parse = parse
        self.help = help_line
        self.metavar = metavar
        self.bare = bare
        self.ini = f"synth_tunnels_{name}"
        self.flag = "--" + self.ini.replace("_", "-")
        self.variable = self.ini.upper()


def _one_of(*choices: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text not in choices:
            raise ValueError(f"must be {' or '.join(choices)}")
        return text

    return parse


def _backend(text: str) -> str:
    if text in ("auto", "embedded", "hosted") or is_url(text):
        return text
    raise ValueError(
        "must be auto, embedded, hosted or an http(s) URL (without credentials: the key belongs "
        f"in {API_KEY_VARIABLE})"
    )


def is_url(text: str) -> bool:
    url = urlsplit(text)
    return url.scheme in ("http", "https") and bool(url.hostname) and "@" not in url.netloc


def _positive_seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value <= 86_400:
        raise ValueError("must be a number of seconds, above 0 and up to 86400")
    return value


def _body_bytes(text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text) <= _MAX_BODY_BYTES):
        raise ValueError(f"must be a number of bytes, 0 to {_MAX_BODY_BYTES}")
    return int(text)


def _port(text: str) -> int:
    if not (text.isascii() and text.isdigit() and 1 <= int(text) <= 65_535):
        raise ValueError("must be a port, 1 to 65535")
    return int(text)


def _command(text: str) -> str:
    if not text.strip():
        raise ValueError("must be a command such as: uvicorn app:app --port {port}")
    return text


def _app(text: str) -> str:
    module, _, attribute = text.partition(":")
    names = [*module.split("."), *attribute.split(".")]
    if not all(name.isidentifier() for name in names):
        raise ValueError("must be module:attribute, such as shop.main:app")
    return text


def _boolean(text: str) -> bool:
    known = {"1": True, "true": True, "yes": True, "on": True}
    known |= {"0": False, "false": False, "no": False, "off": False}
    if text.lower() not in known:
        raise ValueError("must be true or false")
    return known[text.lower()]


def _host_header(text: str) -> str:
    if not re.fullmatch(r"auto|target|public|[A-Za-z0-9_.\[\]:-]{1,255}", text):
        raise ValueError("must be auto, target, public or a host such as app.test:8000")
    return text


def _bind(text: str) -> str:
    if not re.fullmatch(r"[0-9A-Za-z_.:@\[\]-]{1,64}", text):
        raise ValueError(
            "must be an address of this machine, an interface such as docker0, 0.0.0.0 or ::"
        )
    return text


def _public_host(text: str) -> str:
    host = text[1:-1] if text.startswith("[") and text.endswith("]") else text
    is_name = re.fullmatch(r"[0-9A-Za-z_]([0-9A-Za-z_.-]{0,252}[0-9A-Za-z_])?", host)
    if not (is_name or (":" in host and re.fullmatch(r"[0-9A-Fa-f:.]{2,45}", host))):
        raise ValueError("must be a host such as host.docker.internal, without a scheme and a port")
    return host


def _provider(text: str) -> str:
    if text == "auto":
        raise ValueError(
            f"must name one ({', '.join(PROVIDERS)}): a public provider is never chosen by itself"
        )
    if not text.strip():
        raise ValueError(f"must be {', '.join(PROVIDERS)} or the name that a plugin gives")
    return text


def _program(text: str) -> str:
    if not text.strip():
        raise ValueError("must be the path or the name of the cloudflared binary")
    # The keeper, which starts it, runs in another directory.
    return os.path.abspath(text) if os.path.dirname(text) else text


def _file(text: str) -> str:
    if not text.strip() or text.endswith(("/", os.sep)):
        raise ValueError("must be a file such as traffic.html")
    return text


def _folder(text: str) -> str:
    if not text.strip():
        raise ValueError("must be a folder")
    return text


def _names(text: str) -> tuple[str, ...]:
    return tuple(text.replace(",", " ").split())


OPTIONS = (
    Option(
        "backend",
        _backend,
        "which backend gives the leases: auto (hosted when both SYNTH_API_KEY and "
        "SYNTH_BACKEND_URL are set, else embedded), embedded, hosted, or a URL",
        "BACKEND",
    ),
    Option("ttl_s", _positive_seconds, "how long a lease lasts, in seconds", "SECONDS"),
    Option(
        "port",
        _port,
        "expose this local port in every process, instead of a free one for each",
        "PORT",
    ),
    Option(
        "command",
        _command,
        "start this once for the run to serve the exposed port; {port} stands for the port",
        "COMMAND",
    ),
    Option(
        "app",
        _app,
        "serve this ASGI or WSGI application on the exposed port, in each process that uses the "
        "lease",
        "MODULE:ATTRIBUTE",
    ),
    Option(
        "command_timeout_s",
        _positive_seconds,
        "how long the command may take until its port accepts, in seconds",
        "SECONDS",
    ),
    Option(
        "share",
        _one_of("run", "worker"),
        "run: one lease for all xdist workers; worker: a lease for each",
        "run|worker",
    ),
    Option(
        "start",
        _one_of("collection", "session"),
        "collection: the tunnel is opened once a collected test needs it; session: before any "
        "conftest is imported, with its URL in SYNTH_PUBLIC_URL",
        "collection|session",
    ),
    Option(
        "start_timeout_s",
        _positive_seconds,
        "how long a fixture waits for the keeper and its lease, in seconds",
        "SECONDS",
    ),
    Option(
        "request_timeout_s",
        _positive_seconds,
        "how long a caller waits for the app's answer, in seconds",
        "SECONDS",
    ),
    Option(
        "allow_remote_targets",
        _boolean,
        "let a lease expose another machine's port, not only this one's",
        "BOOL",
    ),
    Option(
        "pass_env",
        _names,
        "names of further environment variables that the keeper process gets",
        "NAMES",
    ),
    Option(
        "provider",
        _provider,
        "what gives the leases their public URL: synthtunnel, or, open to everybody who knows the "
        "URL, ngrok, cloudflared, cloudflared-quick or the name that a plugin gives",
        "PROVIDER",
    ),
    Option(
        "url_style",
        _one_of("root", "path"),
        "root: a public URL is an origin of its own; path: it has a path, as with the hosted relay "
        "(default: root with the embedded backend, else path)",
        "root|path",
    ),
    Option(
        "bind",
        _bind,
        "where callers reach the embedded backend's leases: an address or an interface of this "
        "machine such as docker0, or 0.0.0.0 or :: for all (default: 127.0.0.1)",
        "ADDRESS",
    ),
    Option(
        "public_host",
        _public_host,
        "the host that public URLs of the embedded backend name, such as host.docker.internal "
        "(default: the address that is listened on)",
        "HOST",
    ),
    Option(
        "public_port",
        _port,
        "the port of the public URL of the run's lease, with the embedded backend",
        "PORT",
    ),
    Option(
        "tls",
        _boolean,
        "whether the public URLs of the embedded backend are https, with certificates of a "
        "throw-away authority (extra tls)",
        "BOOL",
    ),
    Option(
        "require_token",
        _boolean,
        "whether callers must send the worker token; false with the embedded backend only",
        "BOOL",
    ),
    Option(
        "host_header",
        _host_header,
        "what the app sees as Host: target (its own address), public (the caller's), a host, or "
        "auto (the caller's at the root of an origin on this machine, else the target's)",
        "HOST",
    ),
    Option(
        "strip_prefix",
        _boolean,
        "whether the app sees its paths without the path of the public URL",
        "BOOL",
    ),
    Option("traffic", _boolean, "whether requests and answers are recorded", "BOOL"),
    Option(
        "traffic_body_bytes",
        _body_bytes,
        "how much of each body is recorded, in bytes",
        "BYTES",
    ),
    Option(
        "har",
        _one_of("off", "on", "retain-on-failure"),
        "write what came through the tunnels as HAR files, one for each test that something came "
        "for: off, on, or retain-on-failure",
        "WHEN",
    ),
    Option(
        "output",
        _folder,
        "the folder for files that a run writes, below pytest's root directory unless absolute",
        "FOLDER",
    ),
    Option(
        "report",
        _file,
        "write what came through the tunnels in this run as one HTML page",
        "FILE",
    ),
    Option(
        "inspector",
        _one_of("off", "on", "hold"),
        "show what comes through the tunnels on a live page, whose URL the header has: on (also "
        "without a value), off, or hold, which keeps it after the last test until Ctrl-C",
        "WHEN",
        bare=("on", "hold", "off"),
    ),
    Option(
        "cloudflared",
        _program,
        "the cloudflared binary: a path, or a name to look for on PATH",
        "PROGRAM",
    ),
)
"""Every setting, in the order of ``--help``."""

"""The app behind the tunnels."""

from dataclasses import dataclass
from pathlib import Path

from cache import Cache, tool
from load import Endpoint, ask, free_port
from processes import Processes, poll

__all__ = ["Origin", "start_origin"]

_SOURCE = Path(__file__).with_name("origin.c")
_NGINX = """
daemon off; worker_processes 1; pid {folder}/nginx.pid; error_log {folder}/nginx.log;
events {{ worker_connections 4096; }}
http {{
    access_log off; keepalive_requests 100000000; client_max_body_size 0;
    client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi; uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    server {{
        listen 127.0.0.1:{port};
        location / {{ default_type text/plain; return 200 "{answer}"; }}
    }}
}}
"""


@dataclass(frozen=True)
class Origin:
    """The app itself.

    Attributes:
        endpoint: where it is.
        name: what it is.
        whole: it has ``/bytes/N`` and ``/hold``, which nginx has not.
    """

    endpoint: Endpoint
    name: str
    whole: bool


def start_origin(cache: Cache, processes: Processes, folder: Path) -> Origin:
    """Start the app: a C program where there is a compiler, else nginx."""
    program = cache.compiled(_SOURCE)
    if program is not None:
        port = int(processes.start(program).line())
        origin = Origin(Endpoint(port), "a C program", whole=True)
    else:
        port = free_port()
        configuration = folder / "nginx.conf"
        configuration.write_text(_NGINX.format(folder=folder, port=port, answer="x" * 1024))
        processes.start(tool("nginx"), "-p", folder, "-c", configuration)
        origin = Origin(Endpoint(port), "nginx", whole=False)
    poll(lambda: ask(origin.endpoint) == 200, "the app did not answer", 5.0)
    return origin

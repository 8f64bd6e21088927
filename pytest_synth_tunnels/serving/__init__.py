"""Serves an application of the user's in a thread of the test process: what ``synth_serve`` does.

The one thing of this package that runs a thread in a pytest process, and only when a test asks
for it. The libraries do the serving: uvicorn for ASGI, waitress for WSGI.
"""

from .app_servers import AppServers
from .errors import ServeError
from .server import Server

__all__ = ["AppServers", "ServeError", "Server"]

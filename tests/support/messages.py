"""Messages of a pytest process to its keeper, as most tests need them."""

from typing import Any

from pytest_synth_tunnels.keeper.ipc.messages import Expose


def expose(target: str, **options: Any) -> Expose:
    """Return the request for a lease of its own, as the run's settings say but for ``options``."""
    names = ("provider", "ttl_s", "name", "require_token", "url_style", "host_header")
    return Expose(**{"target": target, "strip_prefix": None} | dict.fromkeys(names) | options)

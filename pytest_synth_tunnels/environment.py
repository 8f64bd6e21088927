"""The part of a test run's environment that other processes may see.

The keeper and the programs of connectors get what is named here and nothing else, so that no key
or token of the user's reaches them by accident. Standard library only, since the pytest process
imports it.
"""

from collections.abc import Collection, Mapping
from typing import Final

__all__ = ["allowed_environment"]

_ALLOWED: Final = frozenset(
    {
        # Where programs are, and whose they are.
        *("PATH", "HOME", "USER", "LOGNAME"),
        # How text and times look in what they print; LC_* besides.
        *("LANG", "LANGUAGE", "TZ"),
        # Where they keep files. The keeper has its ledger in XDG_STATE_HOME.
        *("TMPDIR", "TEMP", "TMP", "XDG_RUNTIME_DIR", "XDG_STATE_HOME", "XDG_CONFIG_HOME"),
        # How they reach the backend and a provider's edge.
        *("SSL_CERT_FILE", "SSL_CERT_DIR"),
        *("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"),
        *("http_proxy", "https_proxy", "all_proxy", "no_proxy"),
        # What programs on Windows need to start at all, and where they keep files.
        *("SYSTEMROOT", "SYSTEMDRIVE", "WINDIR", "COMSPEC", "PATHEXT"),
        *("APPDATA", "LOCALAPPDATA", "USERPROFILE"),
    }
)


def allowed_environment(
    environ: Mapping[str, str], also: Collection[str] = frozenset()
) -> dict[str, str]:
    """Return the variables that another process may see.

    Args:
        environ: the environment.
        also: names that are allowed besides.
    """
    return {
        name: value
        for name, value in environ.items()
        if name in _ALLOWED or name in also or name.startswith("LC_")
    }

"""The public URL of a path, as tests ask for it."""

import re
from typing import Final
from urllib.parse import quote

__all__ = ["url_of"]

_SCHEME: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.\-]*://")
_NOT_IN_URLS: Final = re.compile(r"[^\x21-\x7e]+")


def url_of(public_url: str, path: str) -> str:
    """Return the URL of a path.

    Args:
        public_url: of the lease or address, without a trailing slash.
        path: with or without its leading slash; a query may follow. Spaces and what is not ASCII
            are percent-encoded, all else is taken as it is.

    Raises:
        TypeError: ``path`` is no text.
        ValueError: it has a host, or a fragment, which no client would send.
    """
    if not isinstance(path, str):
        raise TypeError(f"a path is text, not {type(path).__name__}")
    if _SCHEME.match(path):
        raise ValueError(f"path {path!r} has a host: give the path alone, such as '/hooks/paid'")
    if "#" in path:
        raise ValueError(
            f"path {path!r} has a fragment, which no client sends: leave it out, or write %23 for "
            "a '#' that belongs to the path"
        )
    encoded = _NOT_IN_URLS.sub(lambda found: quote(found[0], safe=""), path)
    return f"{public_url}/{encoded.removeprefix('/')}"

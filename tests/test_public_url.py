"""The public URL of a path."""

from typing import Any

import pytest

from pytest_synth_tunnels.public_url import url_of

BASE = "http://127.0.0.1:9/s/rt"


@pytest.mark.parametrize(
    ("path", "url"),
    [
        ("/", f"{BASE}/"),
        ("", f"{BASE}/"),
        ("a/b?c=d&e=%20", f"{BASE}/a/b?c=d&e=%20"),
        ("/a b", f"{BASE}/a%20b"),
        ("/ü?q=ü\n", f"{BASE}/%C3%BC?q=%C3%BC%0A"),
        ("/r?next=http://x/y", f"{BASE}/r?next=http://x/y"),
        ("//a", f"{BASE}//a"),
        ("/a{b}|c", f"{BASE}/a{{b}}|c"),
    ],
)
def test_paths(path: str, url: str) -> None:
    assert url_of(BASE, path) == url


@pytest.mark.parametrize(
    ("path", "error", "said"),
    [
        ("http://x/hook", ValueError, "has a host: give the path alone"),
        ("/a b#f", ValueError, "has a fragment, which no client sends"),
        (None, TypeError, "a path is text, not NoneType"),
        (b"/a", TypeError, "a path is text, not bytes"),
    ],
)
def test_what_is_no_path(path: Any, error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        url_of(BASE, path)

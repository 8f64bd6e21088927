"""Values that are keys by their names, masked in all that leaves the run.

A test reads everything as it came. A report, a section of it or a file does not say the value of a
header, a query parameter, a form field or a JSON key whose name says that it is a key. Signatures
are no keys: a reader who looks for the reason why a webhook was refused needs them.
"""

import json
import re
from base64 import b64decode, b64encode
from collections.abc import Iterable, Mapping
from fnmatch import translate
from typing import Any, Final
from urllib.parse import unquote_plus

from .exchange import Fields, InboundRequest, Response

__all__ = ["KEY_NAMES", "MASK", "Masker"]

MASK: Final = "***"

KEY_NAMES: Final = (
    "authorization",
    "proxy-authorization",
    "cookie",
    "set-cookie",
    "x-api-key",
    "*api-key*",
    "*apikey*",
    "*password*",
    "passwd",
    "*token*",
    "*secret*",
)
"""What names say that a value is a key, as globs; case does not matter, nor ``_`` against ``-``."""

_SIGNATURE: Final = "signature"

_COOKIE_ATTRIBUTES: Final = frozenset(
    {"path", "domain", "expires", "max-age", "secure", "httponly", "samesite", "partitioned"}
)
_PARAMETER = re.compile(r"""(^|[?&;\s"'])([\w.~%+\[\]-]+)=([^&;\s"'<>]*)""")
_MEMBER = re.compile(
    r"""("((?:[^"\\]|\\.){0,200}+)"\s*+:\s*+)("(?:[^"\\]++|\\.)*+(?:"|\\?\Z)|[^\s",\[\]{}]++)""",
    re.DOTALL,
)
_USER = re.compile(r"(://)[^/@\s?#]+@")
_PART = re.compile(
    r"""(^Content-Disposition:([^\r\n]*+)(?:\r?\n[^\r\n]++)*+(?:\r?\n){0,2}+)"""
    r"""(.*?)(?=\r?\n--|\Z)""",
    re.IGNORECASE | re.DOTALL | re.MULTILINE,
)
_FIELD_NAME = re.compile(r"""\bname="?([^"\r\n;]*+)""", re.IGNORECASE)

# All of these take a time that grows with a text's length alone, whatever the text is: its sender
# may be anybody. So what is matched is never looked at in a second way (possessive quantifiers),
# and what begins in many places, as the name of a JSON member does, has a bounded length.

_MAX_GROWTH: Final = 20
"""How much longer than a compressed body what is shown of it may be: a few bytes can hold
gigabytes, and a HAR file has the bodies of a whole run."""

_MAX_SMALL_BYTES: Final = 65_536
"""As much of a compressed body is shown in any case."""


class Masker:
    """Masks values of what it takes for keys.

    Args:
        names: further names, as globs such as ``x-internal-*``.
    """

    def __init__(self, names: Iterable[str] = ()) -> None:
        self._standard = _any_of(KEY_NAMES)
        self._added = _any_of(names)
        self._known: dict[str, bool] = {}

    def is_key(self, name: str) -> bool:
        """Say whether a value of this name is a key."""
        found = self._known.get(name)
        if found is None:
            folded = _folded(name)
            standard = self._standard.match(folded) and _SIGNATURE not in folded
            found = bool(standard or self._added.match(folded))
            if len(self._known) < 1000:
                self._known[name] = found
        return found

    def request(self, request: InboundRequest) -> InboundRequest:
        """Return a copy of a request, and of all that belongs to it, with keys masked.

        A body in which something was masked is no longer compressed in the copy.
        """
        data = request.to_data()
        data["query"] = self.query(request.query_string)
        data |= self._message(request)
        if request.answered:
            data["response"] = data["response"] | self._message(request.response)
        data["messages"] = [self._websocket_message(message) for message in data["messages"]]
        return InboundRequest.from_data(data)

    def _message(self, message: InboundRequest | Response) -> dict[str, Any]:
        masked: dict[str, Any] = {"headers": self.headers(message.headers)}
        content = _shown_content(message)
        whole = message.as_text(content)
        text = self._text_of_body(message, whole)
        is_cut = len(content) > len(message.body) and len(content) == _shown_bytes(message)
        if text != whole or is_cut:
            body = _encoded(text)
            masked["body"] = b64encode(body).decode()
            masked["size_bytes"] = len(body)
            masked["headers"] = [
                (name, str(len(body)) if name.lower() == "content-length" else value)
                for name, value in masked["headers"]
                if name.lower() != "content-encoding"
            ]
            if is_cut:
                masked["truncated"] = True
        return masked

    def _websocket_message(self, data: Mapping[str, Any]) -> dict[str, Any]:
        if not data["text"]:
            return dict(data)
        text = self._content(b64decode(data["data"]).decode("utf-8", "replace"))
        return {**data, "data": b64encode(_encoded(text)).decode()}

    def value(self, value: Any) -> Any:
        """Return a value as JSON has them, with keys masked in all its depth."""
        if isinstance(value, Mapping):
            return {
                name: MASK if self._hides(name, inner) else self.value(inner)
                for name, inner in value.items()
            }
        if type(value) in (list, tuple):
            return type(value)(self.value(item) for item in value)
        return value

    def _hides(self, name: object, value: object) -> bool:
        return isinstance(name, str) and value is not None and self.is_key(name)

    def headers(self, headers: Fields) -> list[tuple[str, str]]:
        """Return header fields with keys masked, also those in the URLs that they hold."""
        return [(name, self._header(name, value)) for name, value in headers.pairs]

    def _header(self, name: str, value: str) -> str:
        if not self.is_key(name):
            return self.text(value)
        lower = name.lower()
        if lower == "set-cookie":
            first, *rest = value.split(";")
            shown = [part for part in rest if _name_of(part).lower() in _COOKIE_ATTRIBUTES]
            return ";".join([f"{_name_of(first)}={MASK}", *shown])
        if lower == "cookie":
            return "; ".join(f"{_name_of(part)}={MASK}" for part in value.split(";"))
        scheme, space, _ = value.partition(" ")
        return f"{scheme} {MASK}" if space and lower.endswith("authorization") else MASK

    def query(self, query: str) -> str:
        """Return the query of a URL, still encoded, with keys masked."""
        return self._parameters(query)

    def text(self, text: str) -> str:
        """Return a text with the keys masked that it holds as parameters (``token=…``), as JSON
        members or before the host of a URL."""
        text = _USER.sub(rf"\1{MASK}@", self._parameters(text))
        return _MEMBER.sub(self._masked_member, text) if '"' in text else text

    def _parameters(self, text: str) -> str:
        return _PARAMETER.sub(self._masked_parameter, text) if "=" in text else text

    def _masked_parameter(self, found: re.Match[str]) -> str:
        before, name, value = found.groups()
        hidden = value and self.is_key(unquote_plus(name))
        return f"{before}{name}={MASK}" if hidden else found[0]

    def _masked_member(self, found: re.Match[str]) -> str:
        start, name, value = found.groups()
        hidden = value != "null" and self.is_key(name)
        return f'{start}"{MASK}"' if hidden else found[0]

    def body(self, message: InboundRequest | Response) -> str:
        """Return a body as text with keys masked: members of JSON, fields of a form.

        A body that was recorded in part, or is not quite JSON, is masked too.
        """
        return self._text_of_body(message, message.as_text(_shown_content(message)))

    def _text_of_body(self, message: InboundRequest | Response, text: str) -> str:
        if message.content_type == "multipart/form-data":
            return _PART.sub(self._masked_part, text)
        return self._content(text)

    def _content(self, text: str) -> str:
        if text[:1] in ("{", "["):
            try:
                value = json.loads(text)
                masked = self.value(value)
                if masked != value:
                    text = json.dumps(masked, ensure_ascii=False)
            except (ValueError, RecursionError):
                pass  # it is no JSON, or has more depth than can be walked through
        return self.text(text)

    def _masked_part(self, found: re.Match[str]) -> str:
        head, disposition, value = found.groups()
        hidden = value and any(map(self.is_key, _FIELD_NAME.findall(disposition)))
        return head + (MASK if hidden else value)


def _shown_bytes(message: InboundRequest | Response) -> int:
    """Return how long what is shown of a body may be."""
    return max(_MAX_SMALL_BYTES, len(message.body) * _MAX_GROWTH)


def _shown_content(message: InboundRequest | Response) -> bytes:
    return message.content_up_to(_shown_bytes(message))


def _encoded(text: str) -> bytes:
    # JSON may have escaped halves of characters, and is written with the same escapes again.
    return text.encode("utf-8", "backslashreplace")


def _any_of(names: Iterable[str]) -> re.Pattern[str]:
    # Without any name, a pattern that nothing matches.
    return re.compile("|".join(translate(_folded(name)) for name in names) or r"(?!)")


def _folded(name: str) -> str:
    return name.lower().replace("_", "-")


def _name_of(cookie: str) -> str:
    return cookie.partition("=")[0].strip()

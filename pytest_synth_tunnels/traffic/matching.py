"""Which requests a test means: matchers, and why a request is not one that was meant."""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple
from urllib.parse import unquote

from .exchange import Fields, InboundRequest, TruncatedBodyError
from .masking import MASK, Masker

__all__ = ["METHODS", "Matcher", "Mismatch", "match", "nearest", "path_pattern"]

METHODS: Final = frozenset(
    {
        "ACL",
        "BASELINE-CONTROL",
        "BIND",
        "CHECKIN",
        "CHECKOUT",
        "CONNECT",
        "COPY",
        "DELETE",
        "GET",
        "HEAD",
        "LABEL",
        "LINK",
        "LOCK",
        "M-SEARCH",
        "MERGE",
        "MKACTIVITY",
        "MKCALENDAR",
        "MKCOL",
        "MKREDIRECTREF",
        "MKWORKSPACE",
        "MOVE",
        "NOTIFY",
        "OPTIONS",
        "ORDERPATCH",
        "PATCH",
        "POST",
        "PROPFIND",
        "PROPPATCH",
        "PURGE",
        "PUT",
        "QUERY",
        "REBIND",
        "REPORT",
        "SEARCH",
        "SUBSCRIBE",
        "TRACE",
        "UNBIND",
        "UNCHECKOUT",
        "UNLINK",
        "UNLOCK",
        "UNSUBSCRIBE",
        "UPDATE",
        "UPDATEREDIRECTREF",
        "VERSION-CONTROL",
    }
)
"""The registered methods, and a few that are in use without."""

_SHOWN: Final = 120
"""Characters of a value in a difference."""

_MASKER: Final = Masker()


class Mismatch(NamedTuple):
    """One thing in which a request differs from a matcher.

    Attributes:
        field: what differs: ``method``, ``path``, ``query.page``, ``json.order.status``…
        expected: what the matcher wants, as text.
        actual: what the request has, as text.
    """

    field: str
    expected: str
    actual: str

    def __str__(self) -> str:
        return f"{self.field}: expected {self.expected}, got {self.actual}"


def match(
    method: str | None = None,
    path: str | re.Pattern[str] | None = None,
    *,
    query: Mapping[str, Any] | None = None,
    headers: Mapping[str, Any] | None = None,
    json: Any = None,
    body: Any = None,
    where: Callable[[InboundRequest], object] | None = None,
) -> "Matcher":
    """Return a matcher, for ``wait_for_all`` or wherever the same requests are meant again.

    What is not given matches everything.

    Args:
        method: ``"POST"``; the case does not matter.
        path: as the app sees it, such as ``"/hooks/paid"``; or a glob, where ``*`` stays within a
            segment and ``**`` does not; or a compiled pattern, which must match all of it.
        query: parameters that must be there; others may be.
        headers: header fields that must be there; others may be.
        json: what the body must hold as JSON. Of dictionaries, also of those inside, what is given
            must be there and more may be; lists must be equal in length and order; everything
            else is compared by ``==``.
        body: the whole body, as bytes or text; or a compiled pattern to be found in it.
        where: called with each request that matches otherwise; says whether it is meant.

    Raises:
        ValueError: no request could ever match.
        TypeError: an argument is of a wrong type.
    """
    return Matcher(method, path, query=query, headers=headers, json=json, body=body, where=where)


class Matcher:
    """Says which requests are meant. Made by :func:`match`, which has the arguments."""

    def __init__(
        self,
        method: str | None = None,
        path: str | re.Pattern[str] | None = None,
        *,
        query: Mapping[str, Any] | None = None,
        headers: Mapping[str, Any] | None = None,
        json: Any = None,
        body: Any = None,
        where: Callable[[InboundRequest], object] | None = None,
    ) -> None:
        self.method = _checked_method(method)
        self.path = path
        self._pattern = path_pattern(path)
        self.query = _checked_fields("query", query)
        self.headers = _checked_fields("headers", headers)
        self.json = json
        self.body = body
        if where is not None and not callable(where):
            raise TypeError(f"where must be callable, not {type(where).__name__}")
        self.where = where

    def __repr__(self) -> str:
        return self.describe(_MASKER)

    def describe(self, masker: Masker) -> str:
        """Return the call that makes this matcher, with values that are keys masked."""
        arguments = [repr(value) for value in (self.method, self.path) if value is not None]
        if self.method is None and self.path is not None:
            arguments = [f"path={arguments[0]}"]
        for name, given in (("query", self.query), ("headers", self.headers)):
            if given is not None:
                arguments.append(f"{name}={_short(masker.value(dict(given)))}")
        if self.json is not None:
            arguments.append(f"json={_short(masker.value(self.json))}")
        if self.body is not None:
            arguments.append(f"body={_short(self.body)}")
        if self.where is not None:
            arguments.append(f"where={getattr(self.where, '__qualname__', self.where)}")
        return f"match({', '.join(arguments)})"

    def matches(self, request: InboundRequest) -> bool:
        """Say whether a request is meant.

        Raises:
            TruncatedBodyError: all but the body matches, and only a part of it was recorded.
            Exception: whatever ``where`` raises.
        """
        for differ in (self._head_mismatches, self._body_mismatches):
            if next(differ(request, _MASKER), None) is not None:
                return False
        if self.where is None:
            return True
        try:
            return bool(self.where(request))
        except Exception as error:
            error.add_note(f"where= was called with {request!r}")
            raise

    def mismatches(self, request: InboundRequest, masker: Masker) -> list[Mismatch]:
        """Return all in which a request differs; an empty list if it is meant.

        Args:
            request: the request.
            masker: masks the values that are keys.
        """
        found = list(self._head_mismatches(request, masker))
        try:
            found += self._body_mismatches(request, masker)
        except TruncatedBodyError as error:
            found.append(Mismatch("body", "a body that was recorded as a whole", str(error)))
        if not found and self.where is not None:
            try:
                answer = self.where(request)
            except Exception as error:
                found.append(Mismatch("where", "a true value", f"{type(error).__name__}: {error}"))
            else:
                if not answer:
                    found.append(Mismatch("where", "a true value", _short(answer)))
        return found

    def _head_mismatches(self, request: InboundRequest, masker: Masker) -> Iterator[Mismatch]:
        if self.method is not None and request.method != self.method:
            yield Mismatch("method", self.method, request.method)
        if self._pattern is not None and not _is_path(self._pattern, request.path):
            wanted = self.path if isinstance(self.path, str) else self._pattern.pattern
            yield Mismatch("path", repr(wanted), repr(request.path))
        if self.query is not None:
            yield from _field_mismatches("query", self.query, request.query, masker)
        if self.headers is not None:
            yield from _field_mismatches("headers", self.headers, request.headers, masker)

    def _body_mismatches(self, request: InboundRequest, masker: Masker) -> Iterator[Mismatch]:
        if self.json is None and self.body is None:
            return
        if request.truncated:
            request.json()  # which says so
        if self.json is not None:
            try:
                value = request.json()
            except (ValueError, RecursionError):
                shown = _short(masker.body(request)) if request.body else "an empty body"
                yield Mismatch("json", "a body that is JSON", shown)
            else:
                for place, wanted, actual in _json_differences("json", self.json, value):
                    yield _masked_mismatch(place, wanted, actual, masker)
        if self.body is not None and not _is_body(self.body, request):
            yield Mismatch("body", _short(self.body), _short(masker.body(request)))


def nearest(
    matcher: Matcher, requests: Iterable[InboundRequest], masker: Masker, limit: int = 3
) -> list[tuple[InboundRequest, list[Mismatch]]]:
    """Return the requests that differ least, with what differs, nearest first.

    Args:
        matcher: what was meant.
        requests: oldest first; of two that are equally near, the later one comes first.
        masker: masks the values that are keys.
        limit: how many to return.
    """
    found = [(request, matcher.mismatches(request, masker)) for request in requests]
    found.reverse()
    found.sort(key=lambda pair: _distance(pair[1]))
    return found[:limit]


def _distance(mismatches: Sequence[Mismatch]) -> tuple[bool, int]:
    """Order requests by nearness: another path is further away than anything else."""
    return any(mismatch.field == "path" for mismatch in mismatches), len(mismatches)


def path_pattern(path: str | re.Pattern[str] | None) -> re.Pattern[str] | None:
    """Return the pattern that all of a path must match; ``None`` for any path.

    Args:
        path: an exact path, a glob or a pattern; see :func:`match`.

    Raises:
        ValueError: it can match no path.
        TypeError: it is none of these.
    """
    if path is None:
        return None
    if isinstance(path, re.Pattern):
        if not isinstance(path.pattern, str):
            raise TypeError("path must be a pattern for text, and this one is for bytes")
        return path
    if not isinstance(path, str):
        raise TypeError(f"path must be text or a compiled pattern, not {type(path).__name__}")
    if "://" in path or path.startswith("//"):
        raise ValueError(f"path {path!r} has a host: give the path alone, such as '/hooks/paid'")
    if not path.startswith(("/", "*")):
        raise ValueError(f"path {path!r} can match nothing: a path begins with '/'")
    for mark, where in (("?", "its parameters belong in query="), ("#", "no request has one")):
        if mark in path:
            raise ValueError(f"path {path!r} can match nothing: it has a {mark!r}, and {where}")
    return re.compile(
        "".join(
            {"**": ".*", "*": "[^/]*"}.get(part) or re.escape(part)
            for part in re.split(r"(\*\*|\*)", path)
        ),
        re.DOTALL,
    )


def _is_path(pattern: re.Pattern[str], path: str) -> bool:
    """Match a path as it came, or decoded."""
    if pattern.fullmatch(path):
        return True
    return "%" in path and bool(pattern.fullmatch(unquote(path)))


def _checked_method(method: str | None) -> str | None:
    if method is None:
        return None
    if not isinstance(method, str):
        raise TypeError(f"method must be text, not {type(method).__name__}")
    upper = method.upper()
    if upper not in METHODS:
        raise ValueError(f"{method!r} is no HTTP method; use where= for one of your own")
    return upper


def _checked_fields(what: str, given: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    """Refuse values that no field can have: those of a query or a header are text."""
    if given is None:
        return None
    if not isinstance(given, Mapping):
        raise TypeError(f"{what} must be a dictionary, not {type(given).__name__}")
    for name, value in given.items():
        if not isinstance(name, str):
            raise TypeError(f"{what} has a name that is no text: {name!r}")
        values = value if isinstance(value, (list, tuple)) else [value]
        for one in values:
            if one is None or isinstance(one, (bool, int, float, bytes)):
                raise ValueError(
                    f"{what}[{name!r}] is {one!r}, which can match nothing: values there are text"
                )
    return given


def _field_mismatches(
    what: str, expected: Mapping[str, Any], actual: Fields, masker: Masker
) -> Iterator[Mismatch]:
    for name, wanted in expected.items():
        values = actual.get_all(name)
        if isinstance(wanted, (list, tuple)):
            right = list(wanted) == values
        else:
            right = any(wanted == value for value in values)
            right = right or (len(values) > 1 and bool(wanted == actual[name]))
        if not right:
            got = _NOTHING if not values else values[0] if len(values) == 1 else values
            yield _masked_mismatch(f"{what}.{name}", wanted, got, masker)


def _json_differences(
    place: str, expected: Any, actual: Any, *, whole: bool = False
) -> Iterator[tuple[str, Any, Any]]:
    """Compare as :func:`match` says; yield each difference with its place.

    Args:
        place: where ``expected`` stands.
        expected: what a test gave.
        actual: what came.
        whole: inside a list, where a dictionary may hold nothing else.
    """
    if isinstance(expected, Mapping) and isinstance(actual, Mapping):
        for name, wanted in expected.items():
            inner = f"{place}.{name}"
            if name in actual:
                yield from _json_differences(inner, wanted, actual[name], whole=whole)
            else:
                yield inner, wanted, _NOTHING
        if whole:
            for name in actual.keys() - expected.keys():
                yield f"{place}.{name}", _NOTHING, actual[name]
    elif type(expected) in (list, tuple) and isinstance(actual, list):
        if len(expected) == len(actual):
            for index, (wanted, value) in enumerate(zip(expected, actual, strict=True)):
                yield from _json_differences(f"{place}[{index}]", wanted, value, whole=True)
        else:
            yield place, expected, actual
    # The test's own object is asked, so that one with an ``__eq__`` of its own decides.
    elif not expected == actual:  # noqa: SIM201
        yield place, expected, actual


class _Nothing:
    """Stands for what is not there."""

    def __repr__(self) -> str:
        return "nothing"


_NOTHING: Final = _Nothing()


def _masked_mismatch(place: str, expected: Any, actual: Any, masker: Masker) -> Mismatch:
    """Return a difference as text; its values are masked where a name on the way is a key's."""
    if any(map(masker.is_key, re.split(r"[.\[\]]", place))):
        return Mismatch(place, MASK, MASK if actual is not _NOTHING else "nothing")
    return Mismatch(place, _short_masked(expected, masker), _short_masked(actual, masker))


def _short_masked(value: Any, masker: Masker) -> str:
    try:
        return _short(masker.value(value))
    except RecursionError:
        return "a value with more depth than can be shown"


def _is_body(expected: Any, request: InboundRequest) -> bool:
    if isinstance(expected, re.Pattern):
        if isinstance(expected.pattern, bytes):
            return expected.search(request.body) is not None
        return expected.search(request.text) is not None
    if isinstance(expected, str):
        return expected == request.text
    return bool(expected == request.body)


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 1]}…"

"""Traffic as people read it: a line for each request, a failed wait, the section of a report.

Everything here goes into reports, so every value that is a key is masked.
"""

from collections.abc import Container, Iterable, Iterator, Sequence
from typing import Final, NamedTuple

from .exchange import InboundRequest, Response
from .masking import Masker
from .matching import Matcher, nearest

__all__ = ["Came", "failure", "line", "section"]

_LINES: Final = 20
"""Requests in a message; the latest of them."""

_BODY: Final = 500
"""Characters of a body."""

_DIFFERENCES: Final = 8
"""Of one request."""

_BAD_STATUS: Final = 400


class Came(NamedTuple):
    """What there is to tell when a wait has failed.

    Attributes:
        url: where the test's requests were to come.
        requests: what came there, oldest first, what the tunnel answered itself included.
        lease_requests: what came to the lease's own URL meanwhile, where that did not count.
        returned: those that earlier calls have returned.
        dropped: how many requests of the run the log has dropped.
        checks: what to look at where nothing came.
    """

    url: str
    requests: Sequence[InboundRequest]
    lease_requests: Sequence[InboundRequest]
    returned: Container[InboundRequest]
    dropped: int
    checks: Sequence[str]

    @property
    def requests_at_app(self) -> list[InboundRequest]:
        """Those that reached the app."""
        return [request for request in self.requests if request.answered_by != "tunnel"]


def failure(
    shortfall: str, matchers: Sequence[Matcher], waited_s: float, came: Came, masker: Masker
) -> str:
    """Return the message of a wait that has failed.

    Args:
        shortfall: what is wrong.
        matchers: what was waited for.
        waited_s: how long that was, in seconds.
        came: what there was instead.
        masker: knows which values are keys.
    """
    reached = came.requests_at_app
    refused = [request for request in came.requests if request.answered_by == "tunnel"]
    lines = [f"{shortfall} ({f'waited {waited_s:g} s' if waited_s else 'without waiting'})", ""]
    if reached:
        lines += [f"What came to {came.url}:", *_listed(reached, masker), ""]
        for matcher in matchers[:_LINES]:
            lines += _nearest(matcher, came, masker)
    else:
        lines += [f"No request reached the app at {came.url}.", ""]
    if refused:
        lines += ["What the tunnel answered itself:", *_listed(refused, masker), ""]
    lines += _elsewhere(matchers, came)
    if came.dropped:
        lines += [f"The oldest {came.dropped} requests of this run are no longer recorded.", ""]
    if not reached:
        lines += ["Check:", *(f"  - {check}" for check in came.checks)]
    return "\n".join(lines).rstrip()


def _nearest(matcher: Matcher, came: Came, masker: Masker) -> Iterator[str]:
    found = nearest(matcher, came.requests_at_app, masker)
    if found:
        yield f"Nearest to {matcher.describe(masker)}:"
    for request, mismatches in found:
        yield f"  {_name(request, masker)}"
        yield from (f"    {mismatch}" for mismatch in mismatches[:_DIFFERENCES])
        if len(mismatches) > _DIFFERENCES:
            yield f"    and {len(mismatches) - _DIFFERENCES} more differences"
        if not mismatches:
            yield f"    matches{_but(request, came)}"
    if found:
        yield ""


def _but(request: InboundRequest, came: Came) -> str:
    """Say why a request that matches was not the one waited for, if it was not."""
    if request in came.returned:
        return ", and was returned by an earlier call"
    if not request.app_has_answered:
        return ', but the app has not answered it: until="received" does not wait for that'
    return ""


def _elsewhere(matchers: Sequence[Matcher], came: Came) -> Iterator[str]:
    """Tell of what came to the lease's own URL, which a test may have meant."""
    requests = came.lease_requests
    meant = sum(any(_matches(matcher, request) for matcher in matchers) for request in requests)
    if requests:
        matching = f", {meant} of them matching" if meant else ""
        number = "1 request" if len(requests) == 1 else f"{len(requests)} requests"
        yield (
            f"Since this test began, {number} came to the lease's own URL{matching}. They may be "
            "another test's; pass include_lease=True to count them."
        )
        yield ""


def _matches(matcher: Matcher, request: InboundRequest) -> bool:
    try:
        return matcher.matches(request)
    except Exception:
        return False  # the failure is being told already


def _listed(requests: Sequence[InboundRequest], masker: Masker) -> Iterator[str]:
    if len(requests) > _LINES:
        yield f"  ({len(requests) - _LINES} earlier ones)"
    for request in requests[-_LINES:]:
        yield f"  {line(request, masker)}"


def line(request: InboundRequest, masker: Masker) -> str:
    """Return a request in one line: when, what, how it was answered, by whom and why."""
    parts = [f"{request.received_at.astimezone():%H:%M:%S.%f}"[:-3], _name(request, masker)]
    if request.answered:
        response = request.response
        parts += [str(response.status), _duration(response.duration_s)]
    if request.answered_by is None:
        parts.append("not answered" if request.over else "not answered yet")
    else:
        parts.append(f"by the {request.answered_by}")
    if request.is_websocket:
        count = len(request.messages) + request.messages_dropped
        parts.append(f"WebSocket, {count} messages" if count != 1 else "WebSocket, 1 message")
    shown = "  ".join(parts)
    return f"{shown}: {request.error}" if request.error else shown


def _name(request: InboundRequest, masker: Masker) -> str:
    query = f"?{masker.query(request.query_string)}" if request.query_string else ""
    return _shortened(f"{request.method} {request.path}{query}")


def _duration(duration_s: float) -> str:
    return f"{duration_s * 1000:.0f} ms" if duration_s < 1 else f"{duration_s:.2f} s"


def section(requests: Iterable[InboundRequest], masker: Masker) -> str:
    """Return the section of a failing test's report; empty where nothing came.

    Args:
        requests: what came while the test ran, oldest first.
        masker: knows which values are keys.
    """
    found = list(requests)
    lines = []
    if len(found) > _LINES:
        lines.append(f"({len(found) - _LINES} earlier ones)")
    for request in found[-_LINES:]:
        lines.append(line(request, masker))
        if _has_failed(request):
            lines += _details(masker.request(request))
    return "\n".join(lines)


def _has_failed(request: InboundRequest) -> bool:
    if request.error or not request.answered:
        return True
    return request.response.status >= _BAD_STATUS


def _details(masked: InboundRequest) -> Iterator[str]:
    yield from _body_lines("it sent", masked)
    if masked.answered:
        yield from _body_lines("it got", masked.response)
    if masked.local_url:
        yield f"    {masked.curl()}"


def _body_lines(what: str, message: InboundRequest | Response) -> Iterator[str]:
    if not message.body:
        return
    text = message.text.strip()
    if "\0" in text or text.count("\ufffd") > len(text) // 20:
        yield f"    {what} {message.size_bytes} bytes of {message.content_type or 'unknown type'}"
        return
    first, *rest = _shortened(text).splitlines() or [""]
    yield f"    {what}: {first}"
    yield from (f"      {more}" for more in rest)


def _shortened(text: str) -> str:
    return text if len(text) <= _BODY else f"{text[:_BODY]}… ({len(text)} characters)"

"""What a test holds of its inbox: ``synth_inbox``, an address that the keeper answers itself."""

import re
from collections.abc import Mapping
from json import dumps
from typing import Any, Final

from .keeper.ipc.client import KeeperClient
from .keeper.ipc.messages import MAX_LINE_BYTES, Done, InboxRespond, encode
from .synth_traffic import Traffic, open_address
from .traffic.masking import Masker
from .traffic.matching import METHODS, path_pattern
from .traffic.waits import checked_number, checked_time

__all__ = ["Inbox", "open_inbox"]

_HEADER_NAME: Final = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_HEADER_VALUE: Final = re.compile(r"[\t\x20-\x7e\x80-\xff]*")


class Inbox(Traffic):
    """The traffic of an address that no app serves: everything is answered with 200 and recorded,
    unless :meth:`respond` says otherwise."""

    def respond(
        self,
        method: str | None = None,
        path: "str | re.Pattern[str] | None" = None,
        *,
        status: int = 200,
        headers: Mapping[str, str] | None = None,
        json: Any = None,
        body: bytes | str | None = None,
        delay_s: float = 0.0,
        times: int | None = None,
    ) -> None:
        """Say how requests are answered from now on. Of all that was said, the last that matches
        a request counts.

        Args:
            method: of the requests; any by default.
            path: of the requests, as in :meth:`Traffic.wait_for`; any by default.
            status: of the answer.
            headers: of the answer; its length is not among them.
            json: the answer's body, which is sent as JSON.
            body: the answer's body, instead of ``json``; text is sent as UTF-8.
            delay_s: how long the answer waits, in seconds.
            times: how many requests are answered so; all by default.

        Raises:
            ValueError: no request could ever match, or there can be no such answer.
            KeeperError: the keeper is gone.
        """
        __tracebackhide__ = True
        content, content_type = _answer_body(json, body)
        pairs = [_checked_header(name, str(value)) for name, value in (headers or {}).items()]
        if content_type and not any(name.lower() == "content-type" for name, _ in pairs):
            pairs.append(["Content-Type", content_type])
        pattern = path_pattern(path)
        if method is not None and method.upper() not in METHODS:
            raise ValueError(f"{method!r} is no HTTP method")
        if not (isinstance(status, int) and 200 <= status <= 599):
            raise ValueError(f"status must be 200 to 599, not {status!r}")
        if times is not None and checked_number(times) == 0:
            raise ValueError("times must be 1 or more, or None for always")
        message = InboxRespond(
            address=self._info.address,
            method=None if method is None else method.upper(),
            path=None if pattern is None else pattern.pattern,
            path_flags=0 if pattern is None else int(pattern.flags),
            status=status,
            headers=pairs,
            body=content.decode("latin-1"),
            delay_s=checked_time("delay_s", delay_s),
            times=times,
        )
        if len(encode(message)) > MAX_LINE_BYTES:
            raise ValueError(
                f"an answer with a body of {len(content)} bytes is too long for an inbox: as JSON "
                f"it may have {MAX_LINE_BYTES >> 20} MiB, where some bytes take six. Serve it with "
                "synth_serve and use synth_traffic"
            )
        self._keeper.ask(message, Done)


def open_inbox(
    keeper: KeeperClient, test: str, *, since_s: float, masker: Masker, timeout_s: float
) -> Inbox:
    """Return an inbox of a test's own.

    Args:
        keeper: of the run.
        test: the test's name.
        since_s: when it began, by :func:`time.monotonic`.
        masker: knows which values are keys.
        timeout_s: how long the keeper may take, in seconds.

    Raises:
        KeeperError: there can be none.
    """
    info = open_address(keeper, test, inbox=True, timeout_s=timeout_s)
    return Inbox(keeper, info, since_s=since_s, masker=masker)


def _checked_header(name: str, value: str) -> list[str]:
    """Return a header of an inbox's answer."""
    if not _HEADER_NAME.fullmatch(name):
        raise ValueError(f"{name!r} is no header name")
    if name.lower() in ("content-length", "transfer-encoding"):
        raise ValueError(f"an inbox writes {name} itself")
    if not _HEADER_VALUE.fullmatch(value):
        raise ValueError(
            f"the value of the header {name} has a line break, another control character or one "
            "that is not in Latin-1"
        )
    return [name, value]


def _answer_body(json: Any, body: bytes | str | None) -> tuple[bytes, str]:
    """Return the body of an inbox's answer, and its type."""
    if body is None:
        return (b"", "") if json is None else (dumps(json).encode(), "application/json")
    if json is not None:
        raise ValueError("an answer has json or body, not both")
    if isinstance(body, str):
        return body.encode(), "text/plain; charset=utf-8"
    if isinstance(body, (bytes, bytearray)):
        return bytes(body), "application/octet-stream"
    raise TypeError(f"body must be bytes or text, not {type(body).__name__}")

"""What HAR 1.2 asks of a file, written down from its specification
(http://www.softwareishard.com/blog/har-12-spec/), as a list of what a file does wrong."""

from collections.abc import Iterator
from datetime import datetime
from typing import Any

__all__ = ["har_faults"]

Number = (int, float)

MOMENT = "moment"
"""A date and time of ISO 8601 with a time zone."""

DURATION = "duration"
"""Milliseconds, or -1 where the time does not apply."""

SIZE = "size"
"""Bytes, or -1 where nobody knows."""

# A field with a question mark may be missing. A list has items of its one kind, and a name that is
# a key here is an object.
OBJECTS: dict[str, dict[str, Any]] = {
    "file": {"log": "log"},
    "log": {
        "version": str,
        "creator": "creator",
        "browser?": "creator",
        "pages?": ["page"],
        "entries": ["entry"],
    },
    "creator": {"name": str, "version": str},
    "page": {"startedDateTime": MOMENT, "id": str, "title": str, "pageTimings": dict},
    "entry": {
        "pageref?": str,
        "startedDateTime": MOMENT,
        "time": DURATION,
        "request": "request",
        "response": "response",
        "cache": dict,
        "timings": "timings",
        "serverIPAddress?": str,
        "connection?": str,
    },
    "request": {
        "method": str,
        "url": str,
        "httpVersion": str,
        "cookies": ["cookie"],
        "headers": ["pair"],
        "queryString": ["pair"],
        "postData?": "postData",
        "headersSize": SIZE,
        "bodySize": SIZE,
    },
    "response": {
        "status": int,
        "statusText": str,
        "httpVersion": str,
        "cookies": ["cookie"],
        "headers": ["pair"],
        "content": "content",
        "redirectURL": str,
        "headersSize": SIZE,
        "bodySize": SIZE,
    },
    "cookie": {
        "name": str,
        "value": str,
        "path?": str,
        "domain?": str,
        "expires?": MOMENT,
        "httpOnly?": bool,
        "secure?": bool,
    },
    "pair": {"name": str, "value": str},
    "postData": {"mimeType": str, "params": ["param"], "text": str},
    "param": {"name": str, "value?": str, "fileName?": str, "contentType?": str},
    "content": {
        "size": SIZE,
        "compression?": int,
        "mimeType": str,
        "text?": str,
        "encoding?": str,
    },
    "timings": {
        "blocked?": DURATION,
        "dns?": DURATION,
        "connect?": DURATION,
        "send": DURATION,
        "wait": DURATION,
        "receive": DURATION,
        "ssl?": DURATION,
    },
}
"""The fields of each object. Every one may have a comment too, and fields that begin with an
underscore."""


def har_faults(content: Any) -> list[str]:
    """Return where a file, read as JSON, is no HAR 1.2; nothing for one that is.

    Args:
        content: the file.
    """
    faults = list(_faults(content, "file", ""))
    if not faults:
        log = content["log"]
        if log["version"] != "1.2":
            faults.append(f"log.version is {log['version']!r}")
        started = [entry["startedDateTime"] for entry in log["entries"]]
        if started != sorted(started, key=datetime.fromisoformat):
            faults.append("log.entries are not in their order")
        for number, entry in enumerate(log["entries"]):
            known = [value for name, value in entry["timings"].items() if name != "comment"]
            if entry["time"] != sum(value for value in known if value != -1):
                faults.append(f"log.entries[{number}].time is not the sum of its timings")
    return faults


def _faults(value: Any, wanted: Any, where: str) -> Iterator[str]:
    if isinstance(wanted, list):
        if not isinstance(value, list):
            yield f"{where} is no list"
            return
        for number, item in enumerate(value):
            yield from _faults(item, wanted[0], f"{where}[{number}]")
    elif wanted in OBJECTS:
        yield from _object_faults(value, OBJECTS[wanted], where)
    elif not _fits(value, wanted):
        yield f"{where} is {value!r}"


def _object_faults(value: Any, fields: dict[str, Any], where: str) -> Iterator[str]:
    if not isinstance(value, dict):
        yield f"{where} is no object"
        return
    known = {name.rstrip("?"): wanted for name, wanted in fields.items()} | {"comment": str}
    for name in fields:
        if not name.endswith("?") and name not in value:
            yield f"{where}.{name} is missing".lstrip(".")
    for name, inner in value.items():
        path = f"{where}.{name}".lstrip(".")
        if name in known:
            yield from _faults(inner, known[name], path)
        elif not name.startswith("_"):
            yield f"{path} is not in HAR"


def _fits(value: Any, wanted: Any) -> bool:
    if wanted in (DURATION, SIZE):
        kinds = Number if wanted == DURATION else (int,)
        return type(value) in kinds and (value >= 0 or value == -1)
    if wanted == MOMENT:
        try:
            return datetime.fromisoformat(value).tzinfo is not None
        except (TypeError, ValueError):
            return False
    return type(value) is wanted

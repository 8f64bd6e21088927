"""Takes the secrets that a run knows out of texts, and out of what pytest makes reports of."""

from collections.abc import Iterable
from typing import Any

__all__ = ["redact"]

_MASK = "***"

_CUT = "..."
"""What pytest puts in place of the middle of a long text."""

_SHORTEST_PART = 8
"""Less of a secret says little more than its kind."""


def redact(value: Any, secrets: Iterable[str]) -> Any:
    """Return ``value`` with every secret masked, in its strings and in the objects it is made of.

    Args:
        value: a part of a test report: text, a collection, or one of pytest's ``repr`` objects.
        secrets: the tokens and keys that this process has seen.
    """
    known = [secret for secret in secrets if secret]
    return _Redactor(known).clean(value) if known else value


class _Redactor:
    def __init__(self, secrets: list[str]) -> None:
        self._secrets = secrets
        self._seen: set[int] = set()

    def clean(self, value: Any) -> Any:
        if isinstance(value, str):
            for secret in self._secrets:
                value = _mask(value, secret)
            return value
        if type(value) in (list, tuple):
            return type(value)(self.clean(item) for item in value)
        if type(value) is dict:
            return {self.clean(key): self.clean(item) for key, item in value.items()}
        # What pytest shows as a whole knows how to write itself; nothing else is ours to change.
        if hasattr(value, "toterminal") and id(value) not in self._seen:
            self._seen.add(id(value))
            for name, part in vars(value).items():
                # pytest's repr objects are frozen dataclasses in some versions.
                object.__setattr__(value, name, self.clean(part))
        return value


def _mask(text: str, secret: str) -> str:
    """Mask a secret, and what is left of one where pytest has cut the middle out of a text."""
    text = text.replace(secret, _MASK)
    if _CUT in text and len(secret) > _SHORTEST_PART:
        text = _mask_beginnings(text, secret)
        # The same for its endings: backwards, they begin.
        text = _mask_beginnings(text[::-1], secret[::-1])[::-1]
    return text


def _mask_beginnings(text: str, secret: str) -> str:
    beginning = secret[:_SHORTEST_PART]
    head, *tails = text.split(beginning)
    for tail in tails:
        rest, cut, _ = tail.partition(_CUT)
        is_part = cut and secret.startswith(beginning + rest)
        head += _MASK + tail[len(rest) :] if is_part else beginning + tail
    return head

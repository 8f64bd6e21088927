"""The base of all errors of this package that a person is to read."""

__all__ = ["HintedError"]


class HintedError(Exception):
    """What failed, and what to do about it.

    ``str()`` gives both, as two sentences. Neither holds a secret.

    Args:
        code: stable, for programs.
        message: what failed, for people.
        hint: what to do about it; may be empty.

    Attributes:
        code: see above.
        message: see above.
        hint: see above.
    """

    def __init__(self, code: str, message: str, hint: str = "") -> None:
        # Not super(): a subclass may mix in an exception whose initialiser wants other things.
        Exception.__init__(self, message)
        self.code = code
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message.rstrip('.')}. {self.hint}" if self.hint else self.message

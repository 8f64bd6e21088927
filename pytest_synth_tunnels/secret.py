"""A token that does not show itself."""

__all__ = ["Secret"]


class Secret(str):
    """A string whose ``repr`` is masked, also inside a dict that a failing test shows."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "'***'"

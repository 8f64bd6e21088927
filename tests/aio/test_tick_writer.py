"""TickWriter: what is written when, with ticks by hand."""

from pytest_synth_tunnels.aio.tick_writer import TickWriter

from ..support.manual_loop import ManualLoop


class Connection:
    """Notes that it was flushed."""

    def __init__(self, name: str, flushed: list[str]) -> None:
        self.name = name
        self.flushed = flushed

    def flush(self) -> None:
        self.flushed.append(self.name)


def test_all_of_a_tick_are_flushed_at_its_end_in_order(loop: ManualLoop) -> None:
    flushed: list[str] = []
    writer = TickWriter(loop)  # type: ignore[arg-type]
    for name in "abc":
        writer.flush_soon(Connection(name, flushed))
    assert flushed == []
    loop.tick()
    assert flushed == ["a", "b", "c"]


def test_what_a_flush_collects_waits_for_the_next_tick(loop: ManualLoop) -> None:
    flushed: list[str] = []
    writer = TickWriter(loop)  # type: ignore[arg-type]

    class Echo(Connection):
        def flush(self) -> None:
            super().flush()
            if len(flushed) < 3:
                writer.flush_soon(self)

    writer.flush_soon(Echo("a", flushed))
    loop.tick()
    assert flushed == ["a", "a", "a"]
    loop.tick()
    assert flushed == ["a", "a", "a"]

"""clock_of: the loop's clock, without a step in between where that is possible."""

import asyncio
from time import monotonic

from pytest_synth_tunnels.aio.clock import clock_of


def test_a_loop_of_asyncio_reads_the_monotonic_clock():
    loop = asyncio.SelectorEventLoop()
    try:
        assert clock_of(loop) is monotonic
        assert loop.time() <= clock_of(loop)() <= loop.time()
    finally:
        loop.close()


def test_a_loop_keeps_a_clock_of_its_own(loop):
    clock = clock_of(loop)
    assert clock() == 1000
    loop.advance(5)
    assert clock() == 1005

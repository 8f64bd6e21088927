"""A machine that sleeps: timers stand, the wall clock goes on."""

from pytest_synth_tunnels.aio.suspend import SuspendDetector


class Laptop:
    def __init__(self, loop):
        self.loop = loop
        self.asleep_s = 0.0
        self.woke = []
        self.watch = SuspendDetector(loop, self.woke.append, now=lambda: loop.now + self.asleep_s)
        self.watch.start()


def test_a_sleep_is_noticed_soon_and_once(loop):
    laptop = Laptop(loop)
    loop.advance(3)
    laptop.asleep_s += 3600
    loop.advance(2)
    assert laptop.woke == [3600]
    loop.advance(60)
    assert laptop.woke == [3600]


def test_small_differences_are_no_sleep(loop):
    laptop = Laptop(loop)
    for step_s in (4, -1000, 4):
        laptop.asleep_s += step_s
        loop.advance(10)
    assert laptop.woke == []


def test_stopping(loop):
    laptop = Laptop(loop)
    laptop.watch.stop()
    laptop.watch.stop()
    laptop.asleep_s = 100
    loop.advance(10)
    assert laptop.woke == []
    assert not [timer for timer in loop.timers if not timer.cancelled]

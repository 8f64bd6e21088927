"""Deadlines: one timer for everything."""

from math import inf

from pytest_synth_tunnels.aio.deadlines import Deadlines


class Item:
    def __init__(self, loop, on_expire=None):
        self.due_at = inf
        self.expired = []
        self._loop = loop
        self._on_expire = on_expire

    def expire(self):
        assert self.due_at == inf
        self.expired.append(self._loop.time())
        if self._on_expire:
            self._on_expire()


def test_each_item_expires_once_at_its_time(loop):
    deadlines = Deadlines(loop)
    items = [Item(loop) for _ in range(3)]
    for after, item in zip((5, 1, 3), items, strict=True):
        deadlines.set(item, 1000 + after)
    loop.advance(10)
    assert [item.expired for item in items] == [[1005], [1001], [1003]]


def test_one_timer_serves_all(loop):
    deadlines = Deadlines(loop)
    for _ in range(100):
        deadlines.set(Item(loop), 1010)
    assert len(loop.timers) == 1


def test_a_deadline_moves_later_by_assignment(loop):
    deadlines = Deadlines(loop)
    item = Item(loop)
    deadlines.set(item, 1001)
    item.due_at = 1004
    loop.advance(3)
    assert item.expired == []
    loop.advance(3)
    assert item.expired == [1004]


def test_a_deadline_moves_earlier_by_set(loop):
    deadlines = Deadlines(loop)
    item = Item(loop)
    deadlines.set(item, 1060)
    deadlines.set(item, 1002)
    loop.advance(5)
    assert item.expired == [1002]


def test_what_is_forgotten_does_not_expire(loop):
    deadlines = Deadlines(loop)
    items = []

    def forget_the_others():
        for item in items:
            deadlines.forget(item)

    items += [Item(loop, on_expire=forget_the_others) for _ in range(3)]
    for item in items:
        deadlines.set(item, 1001)
    loop.advance(2)
    assert sum(len(item.expired) for item in items) == 1
    assert len(deadlines) == 0


def test_an_item_may_set_a_new_deadline_while_it_expires(loop):
    deadlines = Deadlines(loop)
    item = Item(loop, on_expire=lambda: deadlines.set(item, loop.time() + 1))
    deadlines.set(item, 1001)
    loop.advance(3.5)
    assert item.expired == [1001, 1002, 1003]


def test_one_that_fails_leaves_the_others_their_deadlines(loop, caplog):
    deadlines = Deadlines(loop)

    def fail():
        raise RuntimeError("oops")

    items = [Item(loop, on_expire=fail) for _ in range(2)] + [Item(loop) for _ in range(2)]
    for item, due_at in zip(items, (1001, 1001, 1001, 1003), strict=True):
        deadlines.set(item, due_at)
    loop.advance(5)
    assert [item.expired for item in items] == [[1001], [1001], [1001], [1003]]
    assert len(caplog.records) == 2
    assert "oops" in caplog.text
    late = Item(loop)
    deadlines.set(late, 1006)
    loop.advance(2)
    assert late.expired == [1006]


def test_close_drops_everything(loop):
    deadlines = Deadlines(loop)
    item = Item(loop)
    deadlines.set(item, 1001)
    deadlines.close()
    loop.advance(5)
    assert item.expired == []
    assert len(deadlines) == 0

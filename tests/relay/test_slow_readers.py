"""The bound of what is kept for slow callers."""

import pytest

from pytest_synth_tunnels.relay import slow_readers
from pytest_synth_tunnels.relay.slow_readers import SlowReaders


class Reader:
    def __init__(self, readers):
        self.unread_bytes = 0
        self.cut = False
        self._readers = readers

    def cut_off(self):
        self.cut = True
        self._readers.discard(self)


@pytest.fixture
def readers(monkeypatch):
    monkeypatch.setattr(slow_readers, "_MAX_UNREAD_BYTES", 100)
    return SlowReaders()


def test_up_to_the_bound_all_are_kept(readers):
    one, two = Reader(readers), Reader(readers)
    one.unread_bytes = two.unread_bytes = 50
    readers.add(one)
    readers.add(two)
    readers.add(two)
    assert len(readers) == 2
    assert not one.cut
    assert not two.cut


def test_past_it_the_one_with_the_most_is_cut_off_whoever_gets_more(readers):
    one, two = Reader(readers), Reader(readers)
    one.unread_bytes, two.unread_bytes = 60, 40
    readers.add(one)
    two.unread_bytes += 1
    readers.add(two)
    assert one.cut
    assert not two.cut
    assert len(readers) == 1


def test_a_reader_that_has_caught_up_counts_no_more(readers):
    one, two = Reader(readers), Reader(readers)
    one.unread_bytes = two.unread_bytes = 60
    readers.add(one)
    readers.discard(one)
    readers.discard(one)
    readers.add(two)
    assert not one.cut
    assert not two.cut

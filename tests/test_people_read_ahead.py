"""Items that are made ahead, in a thread of their own."""

import contextlib
import threading
import time
import weakref
from contextlib import closing

import pytest

from kineme.people.read_ahead import read_ahead


def threads_ahead():
    return [one for one in threading.enumerate() if one.name.startswith("read ahead")]


class Counted:
    """Makes 0 to `num_items` - 1; knows how many it made, in which threads, and whether it is
    closed. fails_at: the item in whose place it raises."""

    def __init__(self, num_items, *, fails_at=-1):
        self.num_items, self.fails_at = num_items, fails_at
        self.num_made, self.is_closed, self.threads = 0, False, set()

    def items(self):
        try:
            for number in range(self.num_items):
                if number == self.fails_at:
                    raise OSError(f"item {number}")
                self.num_made += 1
                self.threads.add(threading.current_thread().name)
                yield number
        finally:
            self.is_closed = True


def settle(counted, num_made):
    """Wait until so many are made, and long enough for one too many."""
    end = time.monotonic() + 5
    while counted.num_made < num_made and time.monotonic() < end:
        time.sleep(0.001)
    time.sleep(0.02)


@pytest.mark.parametrize("num_ahead", [1, 3])
@pytest.mark.parametrize("num_items", [0, 1, 2, 3, 50])
def test_every_item_comes_in_order_made_in_another_thread(num_items, num_ahead):
    counted = Counted(num_items)
    assert list(read_ahead(counted.items(), num_ahead=num_ahead)) == list(range(num_items))
    assert threading.current_thread().name not in counted.threads
    assert len(counted.threads) == min(num_items, 1)
    assert counted.is_closed
    assert not threads_ahead()


@pytest.mark.parametrize("fails_at", [0, 1, 7])
def test_an_error_comes_after_all_that_was_made_before_it(fails_at):
    counted = Counted(20, fails_at=fails_at)
    ahead = read_ahead(counted.items())
    for number in range(fails_at):
        assert next(ahead) == number
        settle(counted, min(number + 4, fails_at))  # the thread meets the error before it is due
    with pytest.raises(OSError, match=f"item {fails_at}"):
        next(ahead)
    assert not threads_ahead()


class Picture:
    """Something large."""


def test_no_more_than_asked_are_made_ahead_and_none_is_kept():
    counted, held = Counted(8), weakref.WeakSet()

    def pictures():
        for _ in counted.items():
            picture = Picture()
            held.add(picture)
            yield picture

    num_seen = 0
    with closing(read_ahead(pictures(), num_ahead=2)) as ahead:
        for _ in ahead:
            num_seen += 1
            settle(counted, min(num_seen + 2, 8))
            assert counted.num_made == min(num_seen + 2, 8)
            assert len(held) <= 1 + 2  # looked at, and ahead
    assert (num_seen, len(held)) == (8, 1)


def test_whoever_closes_it_waits_for_the_item_that_is_being_made_and_no_more():
    counted, is_going_on = Counted(20), threading.Event()

    def slow():
        for number in counted.items():
            if number == 2:
                is_going_on.wait(5)
            yield number

    items = slow()
    ahead = read_ahead(items)
    assert next(ahead) == 0
    settle(counted, 3)
    threading.Timer(0.05, is_going_on.set).start()
    ahead.close()
    assert is_going_on.is_set()
    assert counted.num_made == 3
    assert items.gi_frame is None  # closed
    assert not threads_ahead()


def test_whoever_stops_at_an_error_of_its_own_leaves_no_thread():
    counted = Counted(20)
    with contextlib.suppress(ValueError), closing(read_ahead(counted.items())) as ahead:
        next(ahead)
        raise ValueError
    assert counted.is_closed
    assert not threads_ahead()


def test_one_that_is_never_asked_makes_nothing():
    counted = Counted(20)
    read_ahead(counted.items()).close()
    assert counted.num_made == 0
    assert not threads_ahead()

"""How busy workers were, on a clock that the test moves."""

import pytest

from rlhf.train.clock import BusyClock


class Timer:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_overlapping_calls_to_a_worker_count_once():
    timer = Timer()
    busy = BusyClock(2, timer)
    with busy(0):
        timer.now = 2.0
        with busy(0), busy(1):
            timer.now = 3.0
        timer.now = 4.0
    timer.now = 10.0
    assert busy.take() == pytest.approx((4 + 1) / 20)


def test_a_call_counts_where_it_was_open():
    timer = Timer()
    busy = BusyClock(1, timer)
    timer.now = 1.0
    with busy(0):
        timer.now = 4.0
        assert busy.take() == pytest.approx(3 / 4)
        timer.now = 5.0
    timer.now = 6.0
    assert busy.take() == pytest.approx(1 / 2)


def test_a_call_that_fails_ends():
    timer = Timer()
    busy = BusyClock(1, timer)
    with pytest.raises(RuntimeError), busy(0):
        raise RuntimeError
    timer.now = 1.0
    assert busy.take() == 0.0

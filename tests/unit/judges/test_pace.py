"""The rate of requests and the waits between attempts, on a clock that the test moves."""

import asyncio
from datetime import UTC, datetime

import pytest

from rlhf.judges.pace import Pace, backoff, stated_wait
from tests.unit.judges.server import FakeTime


async def test_any_minute_has_no_more_requests_than_the_rate():
    time = FakeTime()
    pace = Pace(requests_per_minute=30, now=time, sleep=time.sleep)
    sent: list[float] = []

    async def request() -> None:
        await pace.turn()
        sent.append(time.now)

    await asyncio.gather(*(request() for _ in range(100)))
    assert sent == [2.0 * i for i in range(100)]
    time.now += 600  # a pause is no credit for a burst
    await asyncio.gather(*(request() for _ in range(10)))
    assert sent[100:] == [798.0 + 2.0 * i for i in range(10)]


async def test_a_pause_holds_for_those_that_wait_already():
    time = FakeTime()
    pace = Pace(requests_per_minute=60, now=time, sleep=time.sleep)
    sent: list[float] = []

    async def request() -> None:
        await pace.turn()
        sent.append(time.now)
        if len(sent) == 1:
            pace.pause(30)

    await asyncio.gather(*(request() for _ in range(4)))
    assert sent == [0.0, 30.0, 31.0, 32.0]


async def test_without_a_rate_nobody_waits():
    time = FakeTime()
    pace = Pace(requests_per_minute=None, now=time, sleep=time.sleep)
    await asyncio.gather(*(pace.turn() for _ in range(50)))
    assert time.slept == []


def test_waits_double_within_their_limit():
    for attempt, longest in ((1, 2.0), (2, 4.0), (3, 8.0), (4, 10.0), (200, 10.0)):
        waits = [backoff(2.0, attempt, 10.0) for _ in range(200)]
        assert longest / 2 <= min(waits) < max(waits) <= longest


@pytest.mark.parametrize(
    ("stated", "seconds"),
    [
        ("7", 7.0),
        ("0.5", 0.5),
        ("Mon, 30 Nov 2026 12:00:30 GMT", 30.0),
        ("Mon, 30 Nov 2026 11:00:00 GMT", 0.0),
        ("soon", None),
        ("-3", None),
        ("", None),
    ],
)
def test_a_stated_wait_is_a_number_or_a_date(stated, seconds):
    today = datetime(2026, 11, 30, 12, 0, tzinfo=UTC)
    assert stated_wait({"Retry-After": stated} if stated else {}, today) == seconds

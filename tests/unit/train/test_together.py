"""Concurrent work fails together, and the error that says most is raised."""

import asyncio

import pytest

from rlhf.train.failover import WorkerDied
from rlhf.train.together import together
from rlhf.types import RunError


async def value(number: int) -> int:
    await asyncio.sleep(0)
    return number


async def failing(error: Exception) -> int:
    await asyncio.sleep(0)
    raise error


async def test_results_come_in_the_order_of_the_work() -> None:
    assert await together(*map(value, range(3))) == [0, 1, 2]
    assert await together() == []


async def test_the_others_have_ended_when_one_failed() -> None:
    ended: list[str] = []

    async def long() -> int:
        try:
            await asyncio.sleep(3600)
        finally:
            await asyncio.sleep(0.01)
            ended.append("long")
        return 0

    with pytest.raises(LookupError, match="a bug"):
        await together(long(), failing(LookupError("a bug")))
    assert ended == ["long"]


async def test_a_death_is_raised_rather_than_what_it_caused() -> None:
    broken, death = RunError("policy worker 0 failed: Connection closed by peer"), WorkerDied("died", "policy", 1)
    with pytest.raises(WorkerDied):
        await together(failing(broken), failing(death))

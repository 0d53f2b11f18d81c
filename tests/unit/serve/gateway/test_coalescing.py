"""Events of a stream that travel together."""

import asyncio

import pytest

from serve.gateway.coalescing import coalesce

FIRST = (200, None)


async def tokens(number: int, pause_s: float, error: Exception | None = None, closed: list | None = None):
    try:
        yield FIRST
        for i in range(number):
            yield 200, f"data: {i}\n\n"
            await asyncio.sleep(pause_s)
        if error is not None:
            raise error
    finally:
        if closed is not None:
            closed.append(True)


async def test_what_comes_within_the_interval_is_one_delivery():
    got = [answer async for answer in coalesce(tokens(100, 0), interval_s=60)]
    assert got[0] == FIRST
    assert "".join(text for _, text in got[1:]) == "".join(f"data: {i}\n\n" for i in range(100))
    assert len(got) <= 4


async def test_the_first_waits_for_nothing():
    answers = coalesce(tokens(2, 60), interval_s=60)
    async with asyncio.timeout(10):
        assert [await anext(answers), await anext(answers)] == [FIRST, (200, "data: 0\n\n")]
    await answers.aclose()


async def test_the_end_waits_for_nothing():
    async with asyncio.timeout(10):
        assert len([answer async for answer in coalesce(tokens(3, 0.01), interval_s=60)]) >= 2


async def test_each_by_itself():
    got = [text async for _, text in coalesce(tokens(5, 0.01), interval_s=0)]
    assert got == [None, *(f"data: {i}\n\n" for i in range(5))]


async def test_what_came_before_an_error_is_delivered():
    answers = coalesce(tokens(1, 0, ValueError("broken")), interval_s=60)
    assert [await anext(answers), await anext(answers)] == [FIRST, (200, "data: 0\n\n")]
    with pytest.raises(ValueError, match="broken"):
        await anext(answers)


@pytest.mark.parametrize("interval_s", [0, 0.005, 0.02])
async def test_a_slow_reader_misses_nothing(interval_s):
    got = []
    async for _, text in coalesce(tokens(40, 0.002), interval_s):
        got.append(text or "")
        await asyncio.sleep(0.007)
    assert "".join(got) == "".join(f"data: {i}\n\n" for i in range(40))


async def test_who_leaves_ends_the_stream_at_its_source():
    closed: list[bool] = []
    answers = coalesce(tokens(10, 60, closed=closed), interval_s=60)
    await anext(answers)
    await answers.aclose()
    assert closed == [True]

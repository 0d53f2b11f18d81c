"""Several events of a stream in one delivery: every delivery costs each process on its way the same."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing, suppress
from typing import Any, cast

Answers = AsyncIterator[tuple[int, Any]]


async def coalesce(answers: Answers, interval_s: float) -> Answers:
    """Yield a streamed answer, with the events that come within `interval_s` after a delivery joined into one.

    The status, the first event and the end of the stream wait for nothing. Closing the iterator closes `answers`.
    """
    waiting: list[tuple[int, Any]] = []
    arrived, ended = asyncio.Event(), asyncio.Event()

    async def take() -> None:
        try:
            async with aclosing(cast(Any, answers)):
                async for answer in answers:
                    waiting.append(answer)
                    arrived.set()
        finally:
            ended.set()
            arrived.set()

    taking = asyncio.create_task(take())
    try:
        while not ended.is_set():
            await arrived.wait()
            arrived.clear()
            for answer in join_texts(drain(waiting)):
                yield answer
            with suppress(TimeoutError):
                async with asyncio.timeout(interval_s):
                    await ended.wait()
        for answer in join_texts(drain(waiting)):
            yield answer
        await taking
    finally:
        taking.cancel()
        await asyncio.wait([taking])


def drain(waiting: list[tuple[int, Any]]) -> list[tuple[int, Any]]:
    """All of it, before anything more comes."""
    taken = waiting.copy()
    waiting.clear()
    return taken


def join_texts(answers: list[tuple[int, Any]]) -> list[tuple[int, Any]]:
    """The texts among answers as one."""
    texts = [text for _, text in answers if isinstance(text, str)]
    others = [answer for answer in answers if not isinstance(answer[1], str)]
    return others + ([(200, "".join(texts))] if texts else [])

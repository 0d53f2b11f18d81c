"""Concurrent work that ends together."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Sequence
from typing import TypeVar

from rlhf.train.failover import WorkerDied

T = TypeVar("T")


async def together(*work: Awaitable[T]) -> list[T]:
    """Return the results of concurrent work, in its order. When one fails, the others are cancelled, and have ended
    when the error is raised: none of them runs beside what comes next."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(as_coroutine(each)) for each in work]
    except* Exception as errors:  # noqa: BLE001  the caller sees one of them, whatever it is
        raise most_telling(errors.exceptions) from None
    return [task.result() for task in tasks]


async def as_coroutine(work: Awaitable[T]) -> T:
    return await work


def most_telling(errors: Sequence[BaseException]) -> BaseException:
    """Return the death of a worker among simultaneous errors, since it caused the others, else the first error."""
    return next((error for error in errors if isinstance(error, WorkerDied)), errors[0])

"""States of a run's engines, of which one may die and be started again while the others sample.

up ----> down          it died; its prompts go to the others
down --> stale         its successor has started, with the weights of the run's start
stale -> up            it holds the current version, which was probed: it takes prompts
stale -> down          it died again
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum


class State(StrEnum):
    """State of an engine."""

    up = "up"
    stale = "stale"
    down = "down"


class Fleet:
    """Engines by their ranks, all up at first. An engine is `started` if it is up or stale."""

    def __init__(self, size: int) -> None:
        self.states = dict.fromkeys(range(size), State.up)
        self.loads: Counter[int] = Counter(dict.fromkeys(range(size), 0))
        """Rollouts in flight by engine."""
        self.error: BaseException | None = None
        self._settled = asyncio.Event()
        self._look()

    def set(self, rank: int, state: State) -> None:
        self.states[rank] = state
        self._look()

    def fail(self, error: BaseException | None) -> None:
        """Raise the error to all that wait for an engine, from now on; None: no longer."""
        self.error = error
        self._look()

    def ranks(self, *states: State) -> list[int]:
        return [rank for rank, state in self.states.items() if state in states]

    @property
    def started(self) -> list[int]:
        return self.ranks(State.up, State.stale)

    async def wait_for_one(self) -> None:
        """Wait until an engine is up. Raises the error of one that cannot be started again."""
        await self._settled.wait()
        if self.error is not None:
            raise self.error

    def least_loaded(self) -> int | None:
        """Return the rank of the engine that is up and has the fewest rollouts in flight; None if none is up."""
        return min(self.ranks(State.up), key=lambda rank: (self.loads[rank], rank), default=None)

    @contextmanager
    def load(self, rank: int, num_rollouts: int) -> Iterator[None]:
        """Count rollouts as in flight on an engine."""
        self.loads[rank] += num_rollouts
        try:
            yield
        finally:
            self.loads[rank] -= num_rollouts

    def _look(self) -> None:
        if self.error is not None or self.ranks(State.up):
            self._settled.set()
        else:
            self._settled.clear()

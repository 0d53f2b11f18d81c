"""Wall time by phase, and the share of it in which workers were busy."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Clock:
    """Seconds spent in each named phase since the last `take`, and metrics noted in between. Overlapping phases each
    count in full."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.figures: dict[str, float] = {}

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start

    def take(self) -> dict[str, float]:
        taken, self.seconds = self.seconds, {}
        return taken

    def measure(self, name: str, value: float) -> None:
        """Note a metric; the largest value under a name counts."""
        self.figures[name] = max(value, self.figures.get(name, value))

    def take_figures(self) -> dict[str, float]:
        taken, self.figures = self.figures, {}
        return taken


class BusyClock:
    """Share of the time in which workers had calls in progress, over all workers. Calls to a worker may overlap."""

    def __init__(self, num_workers: int, timer: Callable[[], float] = time.perf_counter) -> None:
        self.open_calls = [0] * num_workers
        self.worker_seconds = 0.0
        self.timer = timer
        self.start = self.now = timer()

    @contextmanager
    def __call__(self, rank: int) -> Iterator[None]:
        self.advance()
        self.open_calls[rank] += 1
        try:
            yield
        finally:
            self.advance()
            self.open_calls[rank] -= 1

    def advance(self) -> None:
        before, self.now = self.now, self.timer()
        self.worker_seconds += (self.now - before) * sum(calls > 0 for calls in self.open_calls)

    def take(self) -> float:
        """Return the share since the last `take`, from 0 to 1; open calls count up to now."""
        self.advance()
        share = self.worker_seconds / ((self.now - self.start) * len(self.open_calls))
        self.worker_seconds, self.start = 0.0, self.now
        return share

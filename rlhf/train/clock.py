"""Wall time by phase."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager


class Clock:
    """Seconds spent under each name since the last `take`; phases that overlap each count in full. And what else was
    measured in between."""

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
        """Note a figure; of several under one name the largest counts."""
        self.figures[name] = max(value, self.figures.get(name, value))

    def take_figures(self) -> dict[str, float]:
        taken, self.figures = self.figures, {}
        return taken

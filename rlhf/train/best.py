"""The model with the best validation so far, kept apart from the newest checkpoints."""

from __future__ import annotations

import json
import math
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from rlhf.train.artifact import MANIFEST
from rlhf.train.run_folder import RunFolder

BEST = "best"
"""Key in the manifest of a best model: the metric by which it was chosen, and the direction."""


class Direction(StrEnum):
    """Direction in which a metric improves."""

    highest = "highest"
    lowest = "lowest"


@dataclass(frozen=True, slots=True, kw_only=True)
class BestModel:
    """The best model by one metric. The folder of the run is its only state."""

    figure: str
    """Name of the metric, such as `validation/reward`."""
    direction: Direction
    folder: RunFolder
    save: Callable[[Path, int, Mapping[str, Any]], Awaitable[None]]
    """Commit the policy to a folder, with its number of steps and entries of the manifest."""

    async def consider(self, num_steps: int, figures: Mapping[str, float]) -> None:
        """Save the model if its metric is better than that of the best one; a metric that is not finite never is."""
        value = figures.get(self.figure, math.nan)
        if not math.isfinite(value) or not self.is_better(value):
            return
        chosen = {BEST: {"figure": self.figure, "is": self.direction.value}, "metrics": dict(figures)}
        await self.save(self.folder.best(num_steps), num_steps, chosen)
        self.folder.drop_old_bests()

    def is_better(self, value: float) -> bool:
        newest = self.newest()
        if newest is None:
            return True
        best = newest["metrics"][self.figure]
        return value > best if self.direction is Direction.highest else value < best

    def newest(self) -> dict[str, Any] | None:
        """Return the manifest of the best model; None if there is none yet."""
        folders = self.folder.bests()
        return json.loads((folders[0] / MANIFEST).read_text(encoding="utf-8")) if folders else None

    @property
    def num_steps(self) -> int:
        """Number of steps of the best model; 0 if there is none yet."""
        newest = self.newest()
        return newest["step"] if newest else 0

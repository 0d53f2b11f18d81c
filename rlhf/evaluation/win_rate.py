"""Two systems on the same prompts: which wins how often, and whether that could be chance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

NUM_RESAMPLES = 2000


@dataclass(frozen=True, slots=True, kw_only=True)
class WinRate:
    rate: float
    """Share of prompts won; ties count half."""
    interval: tuple[float, float]
    """95 %, percentiles of a bootstrap over prompts (Efron 1979)."""
    p_value: float
    """Two-sided sign test of the prompts that are no ties."""
    num_wins: int
    num_ties: int
    num_losses: int


def win_rate(ours: Sequence[float], theirs: Sequence[float], seed: int = 0) -> WinRate:
    """Of scores, one each per prompt, in the same order."""
    won = np.sign(np.asarray(ours, dtype=np.float64) - np.asarray(theirs, dtype=np.float64))
    points = (won + 1) / 2
    generator = np.random.Generator(np.random.PCG64(seed))
    means = points[generator.integers(0, len(points), (NUM_RESAMPLES, len(points)))].mean(1)
    wins, losses = int((won > 0).sum()), int((won < 0).sum())
    return WinRate(
        rate=float(points.mean()),
        interval=(float(np.percentile(means, 2.5)), float(np.percentile(means, 97.5))),
        p_value=float(stats.binomtest(wins, wins + losses).pvalue) if wins + losses else 1.0,
        num_wins=wins,
        num_ties=int((won == 0).sum()),
        num_losses=losses,
    )

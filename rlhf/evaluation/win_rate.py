"""Win rate of two systems on the same prompts, with its interval and significance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from rlhf.evaluation.preference import points
from rlhf.ops.intervals import agreeing, estimate_share


@dataclass(frozen=True, slots=True, kw_only=True)
class WinRate:
    rate: float
    """Share of prompts won; ties count half."""
    interval: tuple[float, float]
    """95 %: `ops.intervals.share_interval`. It contains one half if the p-value is at least 0.05, and excludes one half
    otherwise."""
    p_value: float
    """Exact two-sided sign test over the prompts without ties; 1 if all are ties."""
    num_wins: int
    num_ties: int
    num_losses: int


def win_rate(ours: Sequence[float], theirs: Sequence[float]) -> WinRate:
    """Compare the finite scores of two systems, one per prompt, in the same order."""
    margins = np.array([our - their for our, their in zip(ours, theirs, strict=True)])
    wins, ties, losses = (int(count) for count in ((margins > 0).sum(), (margins == 0).sum(), (margins < 0).sum()))
    found = estimate_share(points(margins), np.arange(len(margins)))
    p_value = float(stats.binomtest(wins, wins + losses).pvalue) if wins + losses else 1.0
    return WinRate(
        rate=found.mean,
        interval=agreeing((found.low, found.high), p_value, wins - losses, null=0.5),
        p_value=p_value,
        num_wins=wins,
        num_ties=ties,
        num_losses=losses,
    )

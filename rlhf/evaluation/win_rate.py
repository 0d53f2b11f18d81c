"""Two systems on the same prompts: which wins how often, and whether that could be chance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

NUM_RESAMPLES = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class WinRate:
    rate: float
    """Share of prompts won; ties count half."""
    interval: tuple[float, float]
    """95 %, percentiles of a bootstrap over prompts (Efron 1979); no wider than a point where all went the same way."""
    p_value: float
    """Exact two-sided sign test over the prompts that are no ties; 1 where all are."""
    num_wins: int
    num_ties: int
    num_losses: int


def win_rate(ours: Sequence[float], theirs: Sequence[float], seed: int = 0) -> WinRate:
    """Of finite scores, one each per prompt, in the same order."""
    margins = np.array([our - their for our, their in zip(ours, theirs, strict=True)])
    assert len(margins)
    assert np.isfinite(margins).all()
    counts = np.array([(margins > 0).sum(), (margins == 0).sum(), (margins < 0).sum()])
    points = np.array([1.0, 0.5, 0.0])
    # Prompts drawn with replacement only matter by how many of each kind there are, and those are multinomial.
    generator = np.random.Generator(np.random.PCG64(seed))
    rates = generator.multinomial(len(margins), counts / len(margins), NUM_RESAMPLES) @ points / len(margins)
    wins, ties, losses = counts.tolist()
    return WinRate(
        rate=float(counts @ points / len(margins)),
        interval=(float(np.percentile(rates, 2.5)), float(np.percentile(rates, 97.5))),
        p_value=float(stats.binomtest(wins, wins + losses).pvalue) if wins + losses else 1.0,
        num_wins=wins,
        num_ties=ties,
        num_losses=losses,
    )

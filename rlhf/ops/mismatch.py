"""Gauges of how far engine and learner disagree on sampled tokens, from sums that merge over ranks."""

from __future__ import annotations

import bisect
import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from rlhf.ops.log_ratio import MAX_LOG_RATIO

BINS_PER_DECADE, SMALLEST, LARGEST = 20, -7, 2
"""Histogram of |d| from 1e-7 to 100 nats. A bin is 12 % wide: a percentile is exact to that."""
NUM_EDGES = (LARGEST - SMALLEST) * BINS_PER_DECADE + 1
NUM_SUMS = 10
"""Sums before the histogram's counts."""


def mismatch_sums(
    old_logprobs: Tensor,  # [B, T], the learner's
    rollout_logprobs: Tensor,  # [B, T], the engine's
    mask: Tensor,  # [B, T] bool
) -> Tensor:  # [NUM_SUMS + NUM_EDGES + 1] float64
    """Sum over the masked tokens what `mismatch_figures` needs."""
    old, rollout = old_logprobs[mask].double(), rollout_logprobs[mask].double()
    gap = old - rollout
    ratio = gap.clamp(max=MAX_LOG_RATIO).exp()
    moments = [
        torch.ones_like(gap), gap, ratio - 1 - gap, ratio, ratio.square(),
        old, rollout, old.square(), rollout.square(), old * rollout,
    ]  # fmt: skip
    edges = torch.logspace(SMALLEST, LARGEST, NUM_EDGES, dtype=torch.float64, device=gap.device)
    counts = torch.bincount(torch.bucketize(gap.abs(), edges), minlength=NUM_EDGES + 1)
    return torch.cat([torch.stack([each.sum() for each in moments]), counts.double()])


def mismatch_figures(sums: Sequence[float]) -> dict[str, float]:
    """Return the gauges by name; empty without tokens, and without a correlation if either side does not vary.

    KL(rollout || learner) by the estimators k1 and k3 (Schulman 2020), in nats per token; `gap_p99`, the upper edge of
    the bin with the 99th percentile of |d|; `ess`, the effective sample size of the ratios e^d as a share of the tokens
    (Kong 1992); the correlation of the logprobs.
    """
    num_tokens, gap, k3, ratio, square, old, rollout, old_square, rollout_square, product = sums[:NUM_SUMS]
    if not num_tokens:
        return {}
    figures = {
        "kl_k1": -gap / num_tokens,
        "kl_k3": k3 / num_tokens,
        "gap_p99": percentile(sums[NUM_SUMS:], 0.99),
        "ess": effective_share(num_tokens, ratio, square),
    }
    spread = [
        num_tokens * squares - total**2 for total, squares in ((old, old_square), (rollout, rollout_square))
    ]  # times num_tokens, the sums of squared deviations
    if min(spread) > 0:
        figures["correlation"] = (num_tokens * product - old * rollout) / math.sqrt(spread[0] * spread[1])
    return figures


def effective_share(num_tokens: float, total: float, square: float) -> float:
    """Return the effective sample size of weights as a share, (sum w)^2 / (n sum w^2); 0 if all weights are 0."""
    return total**2 / (num_tokens * square) if square else 0.0


def percentile(counts: Sequence[float], share: float) -> float:
    """Return the upper edge of the bin that the share of all counts ends in."""
    index = bisect.bisect_left(list(itertools.accumulate(counts)), share * sum(counts))
    return 10 ** (SMALLEST + min(index, NUM_EDGES - 1) / BINS_PER_DECADE)

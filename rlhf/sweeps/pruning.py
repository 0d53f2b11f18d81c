"""Rules that end members of a search early, by the curves of their objective."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from rlhf.sweeps.config import Pruning

Curve = dict[int, float]
"""Objective by training steps taken, in ascending order; more is better."""
MIN_PEERS = 4
"""Earlier members whose median is trusted."""
REDUCTION = 3
"""One of so many members passes a comparison of successive halving, and trains so many times as long until the next."""


def is_hopeless(rule: Pruning, curve: Curve, peers: Sequence[Curve], start: int) -> bool:
    """Return whether a member is to end, by the curves of the members that began before it.

    `start` is the number of training steps before which no member ends.
    """
    if max(curve, default=0) < start:
        return False
    if rule is Pruning.median:
        return is_below_median(curve, peers)
    return is_below_rung(curve, peers, start)


def is_below_median(curve: Curve, peers: Sequence[Curve]) -> bool:
    """Return whether a curve's best value is below the median of the others at the same step (Golovin et al. 2017,
    section 3.2.1, with the others' values at the step in place of their averages until it)."""
    last = max(curve)
    others = [value_at(peer, last) for peer in peers if max(peer, default=0) >= last]
    return len(others) >= MIN_PEERS and max(curve.values()) < statistics.median(others)


def is_below_rung(curve: Curve, peers: Sequence[Curve], start: int) -> bool:
    """Return whether a curve is not among the best third at its newest rung (asynchronous successive halving, Li et al.
    2020, algorithm 2)."""
    rung = start
    while rung * REDUCTION <= max(curve):
        rung *= REDUCTION
    own = value_at(curve, rung)
    others = [value_at(peer, rung) for peer in peers if max(peer, default=0) >= rung]
    num_kept = max((len(others) + 1) // REDUCTION, 1)
    return sum(other > own for other in others) >= num_kept


def value_at(curve: Curve, step: int) -> float:
    """Return the newest value until a step; minus infinity if the first one is later."""
    return next((value for measured, value in reversed(curve.items()) if measured <= step), -float("inf"))

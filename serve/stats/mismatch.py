"""Whether the arms of an experiment got the users they were to get."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import gammaln

ALPHA = 0.001
"""Probability that a right split is ever called wrong; the field's usual bar."""

CONCENTRATIONS = (10.0, 100.0, 1_000.0, 10_000.0)
"""Of the Dirichlet priors around the planned weights under which a wrong split is imagined: wrong by about
sqrt(w * (1 - w) / concentration). From gross faults to slight ones; their Bayes factors are averaged."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mismatch:
    """What the arms got and how well that agrees with the plan."""

    counts: Mapping[str, int]
    """Users by arm."""
    expected: Mapping[str, float]
    p_value: float
    """Of the planned weights, valid at all looks together."""
    mismatched: bool
    """Whoever was lost was hardly lost at random: the experiment's result cannot be read."""


def log_bayes_factor(
    counts: np.ndarray,  # [N, A], users by arm after each exposure
    weights: np.ndarray,  # [A], above 0
    concentration: float,
) -> np.ndarray:  # [N]
    """Logarithm of the Dirichlet-multinomial against the planned multinomial (Lindon and Malek 2022)."""
    prior = concentration * weights
    totals = counts.sum(axis=1)
    imagined = (
        gammaln(concentration)
        - gammaln(concentration + totals)
        + (gammaln(prior + counts) - gammaln(prior)).sum(axis=1)
    )
    return imagined - counts @ np.log(weights)


def mismatch(arms: Sequence[str], weights: Mapping[str, float], *, alpha: float = ALPHA) -> Mismatch:
    """Sample-ratio mismatch of the users' arms, one per user in order of first exposure, against planned weights.

    Anytime valid: the Bayes factor of a right split ever reaches 1/alpha with probability at most alpha, so it may be
    looked at after every user, and the greatest so far decides: a mismatch stays. A user in an arm without weight is
    one at once.
    """
    names = [arm for arm, weight in weights.items() if weight > 0]
    place = {arm: number for number, arm in enumerate(names)}
    counts = {arm: 0 for arm in weights}
    for arm in arms:
        counts[arm] = counts.get(arm, 0) + 1
    strange = [arm for arm in counts if counts[arm] and arm not in place]
    log_factor = math.inf if strange else 0.0
    if arms and not strange:
        running = np.eye(len(names))[[place[arm] for arm in arms]].cumsum(axis=0)  # [N, A]
        shares = np.array([weights[arm] for arm in names])
        factors = np.stack([log_bayes_factor(running, shares, concentration) for concentration in CONCENTRATIONS])
        log_factor = max(0.0, float(np.logaddexp.reduce(factors, axis=0).max()) - math.log(len(CONCENTRATIONS)))
    return Mismatch(
        counts=counts,
        expected={arm: weight * len(arms) for arm, weight in weights.items()},
        p_value=math.exp(-log_factor),
        mismatched=log_factor >= -math.log(alpha),
    )

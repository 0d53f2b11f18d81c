"""Error rates of a gate and coverage of its intervals, on simulated data.

`python -m benchmarks.gate_rates`: under five minutes on one core. A gate lets a model pass that is at most 5 points
worse than its baseline. Both answer the same prompts; a prompt's difficulty for one is correlated with that for the
other by 0.8. Each row is over true rates of the baseline from .05 to .95: the share of regressions of 10 and 20 points
that pass by the interval and by the plain difference, of equal models that fail (by the difference: that do not pass),
and the mean and the lowest coverage of the intervals of a difference (0, -5, -10 and -20 points) and of a share.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass

import numpy as np
from rich.progress import track
from scipy import special

from rlhf.ops.intervals import share_interval
from rlhf.ops.paired import paired_share_interval

RATES = np.linspace(0.05, 0.95, 10)
DIFFERENCES = (0.0, -0.05, -0.1, -0.2)
MARGIN = 0.05
PROMPTS = (10, 30, 100, 300)
SAMPLES = (1, 4)
CORRELATIONS = (0.0, 0.3, 0.7)
BETWEEN_MODELS = 0.8
POOL = 4096
"""Number of equally likely rates that stand for a beta distribution; their mean is the truth."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """Shares of data sets at one true rate and difference."""

    rate: float
    difference: float
    passes: float
    fails: float
    passes_plainly: float
    covers: float
    covers_share: float


def pool(rate: float, rho: float) -> np.ndarray:
    """Return the quantiles of a beta distribution, by which samples of one prompt have the correlation rho."""
    if rho == 0 or rate in (0, 1):
        return np.full(POOL, rate)
    strength = 1 / rho - 1
    levels = (np.arange(POOL) + 0.5) / POOL
    return special.betaincinv(rate * strength, (1 - rate) * strength, levels)


def simulate(
    random: np.random.Generator, num: int, *, rate: float, difference: float, prompts: int, samples: int, rho: float
) -> Cell:
    theirs, ours = pool(rate, rho), pool(rate + difference, rho)
    normal = random.normal(size=(2, num, prompts))
    normal[1] = BETWEEN_MODELS * normal[0] + np.sqrt(1 - BETWEEN_MODELS**2) * normal[1]
    places = np.minimum((special.ndtr(normal) * POOL).astype(int), POOL - 1)
    right = random.random((2, num, prompts, samples)) < np.stack([theirs[places[0]], ours[places[1]]])[..., None]
    pairs = right[1].astype(np.int8) - right[0]
    sizes = np.full((num, prompts), float(samples))
    low, high = paired_share_interval(pairs.sum(-1) * 1.0, sizes, (pairs**2).sum(-1) * 1.0)
    truth = ours.mean() - theirs.mean()
    totals = right[0].sum(-1) * 1.0
    bottom, top = share_interval(totals, sizes, totals)
    return Cell(
        rate=rate,
        difference=difference,
        passes=float((low >= -MARGIN).mean()),
        fails=float((high < -MARGIN).mean()),
        passes_plainly=float((pairs.mean((1, 2)) >= -MARGIN).mean()),
        covers=float(((low <= truth + 1e-12) & (truth - 1e-12 <= high)).mean()),
        covers_share=float(((bottom <= theirs.mean()) & (theirs.mean() <= top)).mean()),
    )


def settings() -> list[tuple[int, int, float]]:
    """Return prompts, samples and correlations; a single sample has no correlation but that between the models."""
    return [(prompts, samples, rho) for samples in SAMPLES for rho in CORRELATIONS for prompts in PROMPTS]


def percent(values: list[float]) -> str:
    return f"{100 * np.mean(values):.1f}"


def row(cells: list[Cell]) -> list[str]:
    by_difference = {each: [cell for cell in cells if cell.difference == each] for each in DIFFERENCES}
    result = []
    for difference in (-0.1, -0.2):
        result += [
            percent([cell.passes for cell in by_difference[difference]]),
            percent([cell.passes_plainly for cell in by_difference[difference]]),
        ]
    equal = by_difference[0.0]
    result += [
        percent([cell.fails for cell in equal]),
        percent([1 - cell.passes_plainly for cell in equal]),
        percent([cell.passes for cell in equal]),
    ]
    for covered in ([cell.covers for cell in cells], [cell.covers_share for cell in equal]):
        result += [percent(covered), f"{100 * min(covered):.1f}"]
    return result


COLUMNS = ("prompts", "samples", "correlation", "-10 passes", "(plain)", "-20 passes", "(plain)", "equal fails",
           "(plain)", "equal passes", "difference covered", "least", "share covered", "least")  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--experiments", type=int, default=2000, help="data sets of each rate, difference and setting")
    num = parser.parse_args().experiments
    print(f"| {' | '.join(COLUMNS)} |\n|{'---|' * len(COLUMNS)}")
    for number, (prompts, samples, rho) in enumerate(track(settings(), description="gate", transient=True)):
        random = np.random.default_rng(number)
        cells = [
            simulate(random, num, rate=rate, difference=difference, prompts=prompts, samples=samples, rho=rho)
            for rate in RATES
            for difference in DIFFERENCES
            if rate + difference >= 0
        ]
        print(f"| {prompts} | {samples} | {rho:g} | {' | '.join(row(cells))} |")


if __name__ == "__main__":
    main()

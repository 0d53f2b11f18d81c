"""Coverage of the 95 % intervals in reports, on simulated data.

`python -m benchmarks.interval_coverage`: under three minutes on one core. Each row is over true rates from 0.02 to
0.98 (or a single skewed distribution): the mean and the lowest coverage, next to a textbook interval of the same data:
Student's t over prompts, the percentiles of a bootstrap (win rates), Student's t over completions (KL), Wilson over
pairs (accuracy). For `serve/`: the fixed test's interval at its look, the sequential one after all users.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
from rich.progress import track
from scipy import stats

from rlhf.evaluation.win_rate import win_rate
from rlhf.ops.intervals import Z, estimate_mean, estimate_share, mean_interval, share_interval
from serve.statistics.sequential import Trial, compare
from serve.statistics.welch import stratified_welch

RATES = np.linspace(0.02, 0.98, 17)
WITHOUT_RATES = 5
"""Factor for the number of data sets of a single distribution, which has no row of rates."""
PROMPTS = (10, 20, 50, 200)
NUM_RESAMPLES = 1000
Ends = tuple[np.ndarray, np.ndarray]
Coverage = tuple[float, float]
"""Coverage of our interval and of the textbook's."""
Case = tuple[str, str, Callable[[np.random.Generator, int], list[Coverage]]]


def covers(ends: Ends, truth: float) -> float:
    """Share of intervals that contain the truth; data without variation has no interval and is left out."""
    low, high = (np.asarray(end) for end in ends)
    inside = (low - 1e-12 <= truth) & (truth <= high + 1e-12)
    printed = ~np.isnan(low)
    return float(inside[printed].mean()) if printed.any() else float("nan")


def student(values: np.ndarray) -> Ends:
    """Return the Student's t interval of values [..., K]."""
    num = values.shape[-1]
    half = stats.t.ppf(0.975, num - 1) * values.std(-1, ddof=1) / np.sqrt(num)
    return values.mean(-1) - half, values.mean(-1) + half


def wilson(shares: np.ndarray, count: np.ndarray) -> Ends:
    centre = (shares + Z**2 / (2 * count)) / (1 + Z**2 / count)
    half = Z / (1 + Z**2 / count) * np.sqrt(shares * (1 - shares) / count + Z**2 / (4 * count**2))
    return centre - half, centre + half


def rate_of_prompt(random: np.random.Generator, rate: float, rho: float, shape: tuple[int, int]) -> np.ndarray:
    """Draw rates of a beta-binomial: samples of one prompt have the correlation rho."""
    if rho in (0, 1):
        return np.full(shape, rate) if rho == 0 else (random.random(shape) < rate).astype(float)
    strength = 1 / rho - 1
    return random.beta(rate * strength, (1 - rate) * strength, shape)


def success(random: np.random.Generator, num: int, *, prompts: int, samples: int, rho: float) -> list[Coverage]:
    found = []
    for rate in RATES:
        totals = random.binomial(samples, rate_of_prompt(random, rate, rho, (num, prompts))).astype(float)
        ours = share_interval(totals, np.full_like(totals, samples), totals)
        found.append((covers(ours, rate), covers(student(totals / samples), rate)))
    return found


def accuracy(random: np.random.Generator, num: int, *, prompts: int, rho: float) -> list[Coverage]:
    """Prompts with 1 to 9 pairs each; the model is right on some prompts more than on others."""
    sizes = 1.0 + np.arange(prompts) % 9
    found = []
    for rate in RATES:
        totals = random.binomial(sizes.astype(int), rate_of_prompt(random, rate, rho, (num, prompts))).astype(float)
        ours = share_interval(totals, np.broadcast_to(sizes, totals.shape), totals)
        found.append((covers(ours, rate), covers(wilson(totals.sum(1) / sizes.sum(), sizes.sum()), rate)))
    return found


def wins(random: np.random.Generator, num: int, *, prompts: int, ties: float) -> list[Coverage]:
    """Measure win rates; the true rate is that of prompts without a tie."""
    points, found = np.array([1.0, 0.5, 0.0]), []
    for rate in RATES:
        truth = ties / 2 + (1 - ties) * rate
        drawn = random.multinomial(prompts, [(1 - ties) * rate, ties, (1 - ties) * (1 - rate)], num)
        kinds, counts = np.unique(drawn, axis=0, return_counts=True)
        ours = np.array([win_rate(np.repeat([1.0, 0.0, -1.0], kind), np.zeros(prompts)).interval for kind in kinds])
        rates = random.multinomial(prompts, kinds / prompts, (NUM_RESAMPLES, len(kinds))) @ points / prompts
        both = [(ours[:, 0], ours[:, 1]), np.percentile(rates, [2.5, 97.5], axis=0)]
        found.append(tuple(covers(tuple(np.repeat(end, counts) for end in ends), truth) for ends in both))
    return found


def divergence(
    random: np.random.Generator, num: int, *, prompts: int, samples: int, shape: str, spread: float
) -> list[Coverage]:
    """Measure positive, skewed values: prompts by `shape`, completions of a prompt gamma (shape 2) around its mean."""
    num *= WITHOUT_RATES
    if shape == "lognormal":
        means = random.lognormal(-spread * spread / 2, spread, (num, prompts, 1))
    else:
        means = random.gamma(spread, 1 / spread, (num, prompts, 1))
    values = random.gamma(2.0, means / 2, (num, prompts, samples))
    return [(covers(mean_interval(values.mean(2)), 1.0), covers(student(values.reshape(num, -1)), 1.0))]


def normal(random: np.random.Generator, num: int, *, prompts: int) -> list[Coverage]:
    values = random.normal(size=(num * WITHOUT_RATES, prompts))
    return [(covers(mean_interval(values), 0.0), covers(student(values), 0.0))]


def graded(random: np.random.Generator, num: int, *, prompts: int, samples: int) -> list[Coverage]:
    """Measure values 0, 1/4 ... 1, like those of a test suite with four cases, correlated within prompts by 1/3."""
    found = []
    for rate in RATES:
        rates = rate_of_prompt(random, rate, 1 / 3, (num, prompts))
        means = (random.binomial(4, np.broadcast_to(rates[..., None], (num, prompts, samples))) / 4).mean(2)
        found.append((covers(mean_interval(means), rate), covers(student(means), rate)))
    return found


def summed(random: np.random.Generator, num: int, *, prompts: int) -> list[Coverage]:
    """Measure scores of 1.1 for a right answer, 0.1 for a wrong answer in the right form (9 of 10), else 0; 4 samples,
    correlated by 1/3. If no right answer is drawn, no interval can include right answers."""
    found, names = [], np.repeat(np.arange(prompts), 4)
    for rate in RATES:
        rates = rate_of_prompt(random, rate, 1 / 3, (num // 10, prompts))
        right = random.random((num // 10, prompts, 4)) < rates[..., None]
        values = right + 0.1 * (right | (random.random(right.shape) < 0.9))
        each = [estimate_mean(one.reshape(-1), names) for one in values]
        ours = np.array([one.low for one in each]), np.array([one.high for one in each])
        truth = rate + 0.1 * (rate + 0.9 * (1 - rate))
        found.append((covers(ours, truth), covers(student(values.mean(2)), truth)))
    return found


def served(random: np.random.Generator, num: int, *, users: int, sequential: bool) -> list[Coverage]:
    """Measure differences of two arms of binary users, 0.05 apart; without a textbook interval."""
    found = []
    for rate in RATES[1:-1:5]:
        ends = []
        for _ in range(num // 20):
            candidate = random.random(2 * users) < 0.5
            values = (random.random(2 * users) < np.where(candidate, rate, rate - 0.05)).astype(float)
            trial = Trial(candidate=candidate, probability=np.full(2 * users, 0.5), values=values)
            result = (compare if sequential else stratified_welch)(trial, alpha_higher=0.025, alpha_lower=0.025)
            ends.append((result.low, result.high))
        found.append((covers(tuple(np.array(ends).T), 0.05), float("nan")))
    return found


def cases() -> Iterator[Case]:
    for prompts in PROMPTS:
        for samples in (1, 4, 8):
            for rho in (0.0,) if samples == 1 else (0.0, 0.1, 0.3, 0.5, 0.8, 1.0):
                setting = f"{prompts} prompts x {samples}, correlation {rho:g}"
                yield "success", setting, partial(success, prompts=prompts, samples=samples, rho=rho)
    for prompts in PROMPTS:
        for rho in (0.0, 0.3, 0.8):
            setting = f"{prompts} prompts with 1 to 9 pairs, correlation {rho:g}"
            yield "accuracy", setting, partial(accuracy, prompts=prompts, rho=rho)
    for prompts in PROMPTS:
        for ties in (0.0, 0.3, 0.8):
            yield "win rate", f"{prompts} prompts, {ties:.0%} ties", partial(wins, prompts=prompts, ties=ties)
    for prompts in PROMPTS:
        for samples in (1, 4, 8):
            for shape, spread in (("lognormal", 0.5), ("lognormal", 1.0), ("gamma", 2.0), ("gamma", 0.5)):
                setting = f"{prompts} prompts x {samples}, {shape} {spread:g}"
                case = partial(divergence, prompts=prompts, samples=samples, shape=shape, spread=spread)
                yield "KL", setting, case
    for prompts in PROMPTS:
        yield "reward", f"{prompts} prompts, normal", partial(normal, prompts=prompts)
        yield "reward", f"{prompts} prompts x 4, 1.1, 0.1 or 0", partial(summed, prompts=prompts)
        for samples in (1, 4):
            yield (
                "reward",
                f"{prompts} prompts x {samples}, 0 to 1 in quarters",
                partial(graded, prompts=prompts, samples=samples),
            )
    for users in (50, 200):
        yield "serve: fixed", f"{users} users per arm", partial(served, users=users, sequential=False)
        yield "serve: sequential", f"{users} users per arm", partial(served, users=users, sequential=True)


def percent(values: list[float]) -> tuple[str, str]:
    known = [100 * value for value in values if not np.isnan(value)]
    return (f"{np.mean(known):.1f}", f"{min(known):.1f}") if known else ("", "")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--experiments", type=int, default=3000, help="data sets of each rate and setting")
    num = parser.parse_args().experiments
    rows = []
    for number, (name, setting, simulate) in enumerate(track(list(cases()), description="coverage")):
        found = simulate(np.random.default_rng(number), num)
        rows.append((name, setting, *percent([ours for ours, _ in found]), *percent([other for _, other in found])))
    print("| interval | setting | mean % | min % | textbook mean % | min % |\n|---|---|---|---|---|---|")
    for row in rows:
        print(f"| {' | '.join(row)} |")
    example = estimate_share(np.ones(40), np.repeat(np.arange(10), 4))
    print(f"\n10 prompts x 4, all right: {example}")


if __name__ == "__main__":
    main()

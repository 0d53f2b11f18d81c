"""Power and false decisions of the tests of `serve/`, in simulated experiments.

`python benchmarks/ab_tests.py`: some minutes on one core. `python benchmarks/ab_tests.py --plot FILE.png` plots one
experiment's confidence sequence and Welch's interval instead.
"""

import argparse
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
from scipy import stats

from serve.releases.config import GuardrailConfig
from serve.releases.guardrails import inspect_guardrail
from serve.statistics.betting import exceeds, first_rejection, log_wealth
from serve.statistics.sample_ratio import check_sample_ratio
from serve.statistics.sequential import Trial, compare, effects
from serve.statistics.visits import Unit
from serve.statistics.welch import power_of, stratified_welch, users_per_arm

ALPHA = 0.05
HALVES = {"alpha_higher": ALPHA / 2, "alpha_lower": ALPHA / 2}
NUM_EXPERIMENTS = 2000
BATCHES = 40
Draw = Callable[[np.random.Generator, float, tuple[int, ...]], np.ndarray]


def binary(random: np.random.Generator, mean: float, size: tuple[int, ...]) -> np.ndarray:
    return (random.random(size) < mean).astype(float)


def graded(random: np.random.Generator, mean: float, size: tuple[int, ...]) -> np.ndarray:
    """Draw from a beta distribution: standard deviation 0.14 at a mean of 0.5."""
    return random.beta(12 * mean, 12 * (1 - mean), size)


@dataclass(frozen=True)
class Values:
    name: str
    draw: Draw
    mean: float
    sd: float


BINARY = Values("binary 0.3", binary, 0.3, math.sqrt(0.3 * 0.7))
RARE = Values("binary 0.05", binary, 0.05, math.sqrt(0.05 * 0.95))
GRADED = Values("graded 0.5", graded, 0.5, math.sqrt(0.25 / 13))


def table(title: str, header: list[str], rows: list[list[object]]) -> None:
    cells = [header, *([str(cell) for cell in row] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    print(f"\n{title}")
    for row in cells:
        print("  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)), flush=True)


def percent(hits: np.ndarray | list[bool]) -> str:
    return f"{100 * np.mean(hits):.1f} %"


def first_look(hits: np.ndarray) -> float:
    """Return the number of the first True, from 1; infinity without any."""
    return float(hits.argmax() + 1) if hits.any() else math.inf


def drawn(random: np.random.Generator, values: Values, num: int, share: float, effect: float = 0.0) -> Trial:
    """Draw users in order of exposure."""
    candidate = random.random(num) < share
    found = np.empty(num)
    for arm, mean in ((candidate, values.mean + effect), (~candidate, values.mean)):
        found[arm] = values.draw(random, mean, (int(arm.sum()),))
    return Trial(candidate=candidate, probability=np.full(num, share), values=found)


def naive_rejects(ours: np.ndarray, theirs: np.ndarray) -> bool:
    """Return whether Welch's test at 1.96 standard errors rejects after any batch."""
    moments = []
    for values in (ours, theirs):
        sizes = np.linspace(0, len(values), BATCHES + 1)[1:].astype(int)
        means, squares = values.cumsum()[sizes - 1] / sizes, (values**2).cumsum()[sizes - 1] / sizes
        moments.append((means, (squares - means**2) / np.maximum(sizes - 1, 1)))
    spread = np.sqrt(moments[0][1] + moments[1][1])
    return bool((np.abs(moments[0][0] - moments[1][0]) > 1.96 * spread)[spread > 0].any())


def equal_arms() -> None:
    rows = []
    for values in (BINARY, RARE, GRADED):
        for share, num in ((0.01, 20_000), (0.05, 10_000), (0.25, 4000), (0.5, 4000)):
            random = np.random.Generator(np.random.PCG64(1))
            found, naive, covered = [], [], []
            for _ in range(NUM_EXPERIMENTS):
                trial = drawn(random, values, num, share)
                result = compare(trial, **HALVES)
                found.append(result.decided != 0)
                covered.append(result.low <= 0 <= result.high)
                naive.append(naive_rejects(*trial.arms))
            rows.append([values.name, f"{share:.0%}", num, percent(found), percent(covered), percent(naive)])
    table(
        f"A/A: {NUM_EXPERIMENTS} experiments; sequential: a look after every user, Welch: after {BATCHES} batches",
        ["values", "candidate", "users", "sequential", "0 always in interval", "Welch, peeking"],
        rows,
    )


def power() -> None:
    rows = []
    for values, effect, share in (
        (BINARY, 0.15, 0.5), (BINARY, 0.05, 0.5), (BINARY, 0.02, 0.5), (BINARY, 0.1, 0.05), (BINARY, 0.1, 0.01),
        (RARE, 0.02, 0.5), (GRADED, 0.03, 0.5), (GRADED, 0.03, 0.05),
    ):  # fmt: skip
        random = np.random.Generator(np.random.PCG64(2))
        other = values.sd if values is GRADED else math.sqrt((values.mean + effect) * (1 - values.mean - effect))
        ratio = (1 - share) / share
        # Weights the two variances as the t-test does.
        sd = math.sqrt((other**2 + values.sd**2 / ratio) / (1 + 1 / ratio))
        num = users_per_arm(sd=sd, effect=effect, share=share)
        calculated = power_of(num, sd=sd, effect=effect, share=share)
        fixed, looks = [], []
        for _ in range(500):
            trial = drawn(random, values, round(4 * num / min(share, 1 - share)), share, effect)
            until = int(np.searchsorted(trial.candidate.cumsum(), num)) + 1
            fixed.append(stratified_welch(trial.only(slice(until)), alpha_higher=ALPHA, alpha_lower=ALPHA).decided == 1)
            estimates, least = effects(trial)
            # Numbers of users of the smaller arm.
            end = first_rejection(log_wealth(estimates - least, -least), ALPHA)
            looks.append(math.inf if end is None else end * min(share, 1 - share))
        looks = np.array(looks)
        rows.append([
            values.name, effect, f"{share:.0%}", num, percent([calculated]), percent(fixed), percent(looks <= num),
            percent(looks <= 2 * num), f"{np.median(looks) / num:.2f}",
            f"{np.minimum(looks, 4 * num).mean() / num:.2f}", f"{np.quantile(looks, 0.8, method='higher') / num:.2f}",
        ])  # fmt: skip
    table(
        "Power: 500 experiments with an effect; n is the smaller arm's size for 80 % with the fixed test, one-sided",
        ["values", "effect", "candidate", "n", "calculated", "fixed at n", "sequential by n", "by 2n", "median/n",
         "mean/n", "80 % by /n"],
        rows,
    )  # fmt: skip


def fires(arms: list[str], weights: dict[str, float], num: int) -> bool:
    return check_sample_ratio(arms[:num], weights).mismatched


def mismatches() -> None:
    rows = []
    for planned, real, num in (
        (0.5, 0.5, 10_000), (0.01, 0.01, 10_000), (0.25, 0.25, 10_000), (0.5, 0.52, 40_000), (0.5, 0.55, 10_000),
        (0.5, 0.8, 1000), (0.01, 0.02, 10_000), (0.25, 0.2, 10_000),
    ):  # fmt: skip
        random = np.random.Generator(np.random.PCG64(3))
        num_experiments = NUM_EXPERIMENTS if planned == real else 200
        weights, fired, delays = {"new": planned, "old": 1 - planned}, [], []
        for _ in range(num_experiments):
            arms = np.where(random.random(num) < real, "new", "old").tolist()
            fired.append(check_sample_ratio(arms, weights).mismatched)
            if planned != real:
                delays.append(delay(partial(fires, arms, weights), num))
        rows.append([f"{planned:.0%}", f"{real:.0%}", num_experiments, num, percent(fired), *quantiles(delays)])
    table(
        "Sample-ratio mismatch at 0.001, looked at after every user",
        ["planned", "real", "experiments", "users", "fired", "median users", "90 % by"],
        rows,
    )


def delay(fires: Callable[[int], bool], num: int) -> float:
    """Return the smallest number of samples at which a test has fired (it stays fired); infinity if it never does."""
    if not fires(num):
        return math.inf
    low, high = 1, num
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if fires(middle) else (middle + 1, high)
    return high


def quantiles(delays: list[float]) -> list[object]:
    return [f"{np.quantile(delays, q, method='higher'):.0f}" for q in (0.5, 0.9)] if delays else ["", ""]


SLOWER = GuardrailConfig(metric="latency_p95_s", at_most_ratio=1.2)


def is_slower(users: list[Unit], alpha: float, num: int) -> bool:
    return inspect_guardrail("slow", SLOWER, [users[:num]], alpha=alpha).against is not None


def guardrails() -> None:
    rows, limit, alpha = [], 0.02, 0.01
    for rate, num in ((0.01, 10_000), (0.02, 10_000), (0.03, 10_000), (0.05, 4000), (0.1, 1000), (0.5, 200)):
        random = np.random.Generator(np.random.PCG64(4))
        fired, delays = [], []
        for _ in range(NUM_EXPERIMENTS):
            errors = binary(random, rate, (num,))
            fired.append(exceeds(errors, limit, alpha=alpha).exceeded)
            delays.append(first_look(log_wealth(errors, limit) >= -math.log(alpha)))
        rows.append([f"{rate:.0%}", num, percent(fired), *(quantiles(delays) if rate > limit else ["", ""])])
    table(
        f"Guardrail: error rate at most {limit:.0%}, alpha {alpha}, {NUM_EXPERIMENTS} experiments",
        ["real", "requests", "fired", "median requests", "90 % by"],
        rows,
    )
    rows = []
    for slower in (1.0, 1.2, 1.5, 2.0, 3.0):
        random = np.random.Generator(np.random.PCG64(5))
        fired, delays = [], []
        for _ in range(200):
            users = [
                Unit(candidate=[slower * seconds], probability=0.25)
                if random.random() < 0.25
                else Unit(predecessor=[seconds], probability=0.25)
                for seconds in random.lognormal(0, 0.5, 4000)
            ]
            rings = partial(is_slower, users, alpha)
            fired.append(rings(4000))
            delays.append(delay(rings, 4000))
        rows.append([slower, percent(fired), *(quantiles(delays) if slower > 1.2 else ["", ""])])
    table(
        f"Guardrail: p95 at most 1.2 times the predecessor's, alpha {alpha}, 200 experiments, 4000 users, "
        "a quarter of them the candidate's",
        ["times slower", "fired", "median users", "90 % by"],
        rows,
    )


def plot(path: str) -> None:
    """Plot one experiment: both intervals after every 20 users of each arm."""
    import matplotlib.pyplot as plt

    random = np.random.Generator(np.random.PCG64(6))
    ours, theirs = binary(random, 0.35, (4000,)), binary(random, 0.3, (4000,))
    sizes = np.arange(20, 4001, 20)
    trial = Trial(
        candidate=np.tile([True, False], 4000),
        probability=np.full(8000, 0.5),
        values=np.stack([ours, theirs], axis=1).reshape(-1),
    )
    figure, axes = plt.subplots(figsize=(8, 4))
    sequences = [compare(trial.only(slice(2 * size)), **HALVES) for size in sizes]
    tests = [stats.ttest_ind(ours[:size], theirs[:size], equal_var=False).confidence_interval() for size in sizes]
    for each, label in ((sequences, "sequential: right at all looks together"), (tests, "Welch: right at one look")):
        axes.fill_between(sizes, [one.low for one in each], [one.high for one in each], alpha=0.3, label=label)
    axes.axhline(0.05, color="black", linestyle=":", label="true difference")
    axes.axhline(0, color="black", linewidth=0.5)
    axes.set(xlabel="users per arm", ylabel="difference", ylim=(-0.3, 0.4))
    axes.legend()
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--plot", metavar="FILE")
    if file := parser.parse_args().plot:
        plot(file)
    else:
        for part in (guardrails, mismatches, power, equal_arms):
            part()

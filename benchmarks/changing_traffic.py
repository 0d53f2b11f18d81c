"""False decisions about candidates that equal their predecessor, under traffic that changes over time.

`python -m benchmarks.changing_traffic`: an hour and a half on one core with 2,000 experiments for each row;
`--experiments 200` for a first look, `--part tests|guardrails` for one of the tables. Whole releases:
`benchmarks/ladder.py`.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import replace

import numpy as np
from rich.progress import track

from benchmarks.ab_tests import percent, table
from serve.releases.config import GuardrailConfig
from serve.releases.guardrails import inspect_guardrail
from serve.statistics.betting import first_rejection, log_wealth
from serve.statistics.responders import earlier_share
from serve.statistics.sequential import Trial, effects
from serve.statistics.visits import Unit
from serve.statistics.welch import least_users, stratified_welch, until_planned

ALPHA = 0.05
HALVES = {"alpha_higher": ALPHA / 2, "alpha_lower": ALPHA / 2}
Scenario = Callable[[np.ndarray, np.random.Generator], np.ndarray]
"""(time of each user in [0, 1], random) -> mean of a user's value at that time."""


def bursts(time: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Return the means of forty intervals, each with a random mean."""
    return random.uniform(0.1, 0.9, 40)[(time * 40).astype(int).clip(max=39)]


SCENARIOS: dict[str, Scenario] = {
    "stationary, 0.3": lambda time, random: np.full_like(time, 0.3),
    "stationary, 0.01": lambda time, random: np.full_like(time, 0.01),
    "0 before noon, 1 after": lambda time, random: (time >= 0.5).astype(float),
    "trend 0.3 to 0.7": lambda time, random: 0.3 + 0.4 * time,
    "slow trend 0.45 to 0.55": lambda time, random: 0.45 + 0.1 * time,
    "14 days' rhythm": lambda time, random: 0.4 + 0.3 * np.sin(28 * np.pi * time),
    "outage": lambda time, random: np.where((time > 0.4) & (time < 0.5), 0.02, 0.6),
    "bursts": bursts,
}
RATES: dict[str, Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]] = {
    "all answer": lambda time: (np.ones_like(time), np.ones_like(time)),
    "0.6 and 0.3 answer": lambda time: (np.full_like(time, 0.6), np.full_like(time, 0.3)),
    "0.2 to 0.8, and 0.3": lambda time: (0.2 + 0.6 * time, np.full_like(time, 0.3)),
    "both 0.1 to 0.7": lambda time: (0.1 + 0.6 * time, 0.1 + 0.6 * time),
}


def draw(
    random: np.random.Generator, mean: np.ndarray, answering: tuple[np.ndarray, np.ndarray], share: float
) -> Trial:
    """Draw users with a value of 0 or 1, or NaN without feedback."""
    candidate = random.random(len(mean)) < share
    values = (random.random(len(mean)) < mean).astype(float)
    values[random.random(len(mean)) >= np.where(candidate, *answering)] = np.nan
    return Trial(candidate=candidate, probability=np.full(len(mean), share), values=values)


def rejected_at(trial: Trial, alpha: float) -> int | None:
    """Return the number of users after which the arms are called different; each direction has half of `alpha`."""
    ends = []
    for values in (trial.values, 1 - trial.values):
        estimates, least = effects(replace(trial, values=values))
        ends.append(first_rejection(log_wealth(estimates - least, -least), alpha / 2))
    return min((end for end in ends if end is not None), default=None)


def responders_differ(trial: Trial) -> bool:
    """Return whether the test of responders calls the arms different."""
    some = trial.only(~np.isnan(trial.values))
    return rejected_at(replace(some, probability=earlier_share(some)), ALPHA) is not None


def differs(trial: Trial, share: float) -> tuple[bool, bool | None]:
    """Return whether the sequential and the fixed test of all users call the arms different; None: too few users."""
    everybody = trial.filled(0.5)
    sequential = rejected_at(everybody, ALPHA) is not None
    # Plans for 90 % of the expected users, so that enough of them come.
    smaller = int(0.9 * min(share, 1 - share) * len(trial))
    planned = until_planned(everybody, users_per_arm=smaller, share=share)
    if planned is None or least_users(planned.values) > smaller:
        return sequential, None
    return sequential, stratified_welch(planned, **HALVES).decided != 0


SETTINGS = [(name, share, rate) for name in SCENARIOS for share in (0.5, 0.4, 0.05, 0.01) for rate in RATES]


def setting(row: int, experiments: int) -> list[object]:
    """Return one line of the table."""
    name, share, rate = SETTINGS[row]
    random = np.random.Generator(np.random.PCG64([1, row]))
    time = np.linspace(0, 1, 2000 if share >= 0.4 else 10_000)
    # Different response rates make the arms different, through the declared value of silence: detecting it is right.
    alike = rate in ("all answer", "both 0.1 to 0.7")
    everybody, fixed, answers = [], [], []
    for _ in range(experiments):
        trial = draw(random, SCENARIOS[name](time, random), RATES[rate](time), share)
        answers.append(responders_differ(trial))
        if alike:
            sequential, planned = differs(trial, share)
            everybody.append(sequential)
            fixed += [] if planned is None else [planned]
    shown = [percent(column) if column else "" for column in (everybody, answers, fixed)]
    return [name, f"{share:.0%}", rate, *shown]


def tests(experiments: int, rows: slice) -> None:
    chosen = range(len(SETTINGS))[rows]
    table(
        f"Called different though equal at every moment, alpha {ALPHA}, {experiments} experiments",
        ["values", "candidate", "who answers", "all users", "responders", "fixed, all users"],
        [setting(row, experiments) for row in track(chosen, description="tests")],
    )


LOADS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "steady": np.ones_like,
    "1.7 times after a quarter": lambda time: np.where(time < 0.25, 1.0, 1.7),
    "days": lambda time: 1 + 0.6 * np.sin(28 * np.pi * time),
    "bursts of 4 times": lambda time: np.where((time * 50).astype(int) % 5 == 0, 4.0, 1.0),
}
GUARDRAILS = {
    "p95, 1.2 times": GuardrailConfig(metric="latency_p95_s", at_most_ratio=1.2),
    "p95, 1.0 times": GuardrailConfig(metric="latency_p95_s", at_most_ratio=1.0),
    "errors, 1.0 times": GuardrailConfig(metric="error_rate", at_most_ratio=1.0),
}


def visitors(
    random: np.random.Generator, load: np.ndarray, requests: int, share: float
) -> tuple[list[Unit], list[Unit]]:
    """Draw latencies and errors of users, with a connection speed and an error rate per user."""
    latencies, errors = [], []
    for moment in load:
        arm = "candidate" if random.random() < share else "predecessor"
        seconds = moment * random.lognormal(0, 0.7) * random.lognormal(0, 0.5, requests)
        luck = random.random() < 0.02 * moment
        latencies.append(Unit(**{arm: list(seconds)}, probability=share))
        errors.append(Unit(**{arm: list((random.random(requests) < 0.9 * luck).astype(float))}, probability=share))
    return latencies, errors


def guardrails(experiments: int) -> None:
    rows = []
    settings = [(load, requests, share) for load in LOADS for requests in (2, 50) for share in (0.5, 0.05)]
    for row, (load, requests, share) in enumerate(track(settings, description="guardrails")):
        random = np.random.Generator(np.random.PCG64([2, row]))
        fired: dict[str, list[bool]] = {name: [] for name in GUARDRAILS}
        for _ in range(max(1, experiments // 4)):
            latencies, errors = visitors(random, LOADS[load](np.linspace(0, 1, 1500)), requests, share)
            for name, config in GUARDRAILS.items():
                units = errors if config.metric == "error_rate" else latencies
                fired[name].append(inspect_guardrail(name, config, [units], alpha=0.02).against is not None)
        rows.append([load, requests, f"{share:.0%}", *(percent(each) for each in fired.values())])
    table(
        f"Alarms about an equal candidate, 1,500 users, alpha 0.02 (half of it for the first period), "
        f"{max(1, experiments // 4)} experiments",
        ["load", "requests of a user", "candidate", *GUARDRAILS],
        rows,
    )


PARTS = ("tests", "guardrails")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--experiments", type=int, default=2000)
    parser.add_argument("--part", choices=PARTS)
    parser.add_argument("--rows", metavar="FROM:TO", help="rows of the table of tests; each is drawn independently")
    arguments = parser.parse_args()
    if arguments.part in (None, "tests"):
        start, _, end = (arguments.rows or "").partition(":")
        tests(arguments.experiments, slice(int(start or 0), int(end) if end else None))
    if arguments.part in (None, "guardrails"):
        guardrails(arguments.experiments)


if __name__ == "__main__":
    main()

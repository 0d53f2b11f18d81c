"""Outcomes of releases under traffic that changes over time, for candidates equal to or different from their
predecessor.

The releases' own state machine and verdicts, from the shadow over all steps to the end of the watch after a promotion,
on a simulated clock and without a store. `python -m benchmarks.ladder`: an hour on one core with 500 releases of each
kind of traffic; `--releases 20` for a first look, `--effect 0.1` for candidates whose users' values are better by so
much, or worse, `--figure FILE.png` draws the table.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.progress import track

from benchmarks.ab_tests import table
from benchmarks.changing_traffic import LOADS, SCENARIOS
from serve.releases import state
from serve.releases.config import GoalConfig, GuardrailConfig, ReleaseConfig
from serve.releases.decision import decide
from serve.releases.progress import Progress
from serve.statistics.metrics import end
from serve.store.records import Exposure, Feedback, FeedbackKind, ObservedRequest, Traffic
from serve.store.release_records import Experiment, Phase, Release, Watch

USERS = 3000
"""Users of a step, one per second."""
LOOK_S = 200.0
CONFIG = ReleaseConfig(
    min_step_s=USERS,
    max_step_s=USERS + LOOK_S,
    watch_s=USERS,
    observation_s=60.0,
    retention_after_s=30.0,
    guardrail_period_s=1500.0,
    goal=GoalConfig(metric="outcome:value", min_users=10),
    guardrails={
        "errors": GuardrailConfig(metric="error_rate", worse_by=0.01, min_samples=10),
        "latency": GuardrailConfig(metric="latency_p95_s", at_most_ratio=1.2, min_samples=10),
    },
)
ENDS = ("promoted", "withdrawn as worse", "withdrawn by a guardrail", "alarm in the watch", "undecided")
Values = Callable[[np.random.Generator, np.ndarray], np.ndarray]
"""(random, mean of each user) -> values in [0, 1]."""


def binary(random: np.random.Generator, mean: np.ndarray) -> np.ndarray:
    return (random.random(len(mean)) < mean).astype(float)


def households(random: np.random.Generator, mean: np.ndarray) -> np.ndarray:
    """Draw values that are the same for twenty users in sequence."""
    return np.repeat(random.random(len(mean) // 20 + 1), 20)[: len(mean)]


def heavy(random: np.random.Generator, mean: np.ndarray) -> np.ndarray:
    return np.minimum(mean * random.pareto(1.1, len(mean)) / 10, 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """Traffic of one kind."""

    mean: str
    """Mean of the values over time: a name in `SCENARIOS`."""
    load: str
    """Load over time, which affects latency and errors: a name in `LOADS`."""
    values: Values = binary
    most_requests: int = 4
    """Largest number of requests of a user; the number is heavy-tailed."""


KINDS = {
    "stationary": Kind(mean="stationary, 0.3", load="steady"),
    "days": Kind(mean="14 days' rhythm", load="days"),
    "trend": Kind(mean="trend 0.3 to 0.7", load="1.7 times after a quarter"),
    "bursts": Kind(mean="bursts", load="bursts of 4 times"),
    "clustered": Kind(mean="bursts", load="steady", values=households),
    "heavy tails": Kind(mean="trend 0.3 to 0.7", load="days", values=heavy, most_requests=50),
}


def visitors(random: np.random.Generator, kind: Kind, step: Experiment, effect: float) -> Traffic:
    """Draw the traffic of a step; `effect` is added to the values of the candidate's users."""
    time = np.linspace(0, 1, int(CONFIG.max_step_s))
    values = kind.values(random, SCENARIOS[kind.mean](time, random))
    load = LOADS[kind.load](time)
    says = random.random(len(time)) < 0.6
    unlucky = random.random(len(time)) < 0.02 * load
    slowness = random.lognormal(0, 0.7, len(time)) * load
    counts = np.minimum(1 + random.pareto(1.0, len(time)), kind.most_requests).astype(int)
    exposures, requests, feedback = [], [], []

    def request(number: int, name: str, variant: str, at: float, copied: str | None = None) -> ObservedRequest:
        return ObservedRequest(
            id=name,
            user=f"user{number}",
            variant=variant,
            at=at,
            shadow_of=copied,
            conversation=name,
            turn=1,
            prompt_hash=name,
            status=500 if unlucky[number] and random.random() < 0.9 else 200,
            latency_s=float(slowness[number] * random.lognormal(0, 0.5)) / 10,
            first_token_s=None,
            completion_tokens=1,
        )

    for number in range(len(time)):
        at, user = step.since + number, f"user{number}"
        variant = step.candidate if random.random() < step.weight else step.predecessor
        exposures.append(
            Exposure(
                experiment=step.name, user=user, variant=variant, at=at, weights=step.weights, salt=step.salt, owner=""
            )
        )
        for count in range(counts[number]):
            name = f"{user}-{count}"
            requests.append(request(number, name, variant, at + count * 0.5))
            if step.shadow:
                requests.append(request(number, f"{name}-copy", step.candidate, at + count * 0.5, name))
        if says[number]:
            feedback.append(
                Feedback(
                    id=user,
                    request_id=f"{user}-0",
                    user=user,
                    at=at + 1,
                    kind=FeedbackKind.outcome,
                    value=float(values[number]) + effect * (variant == step.candidate),
                    name="value",
                )
            )
    return Traffic(exposures=exposures, requests=requests, feedback=feedback)


def looks(progress: Progress, traffic: Traffic) -> Iterator[float]:
    """Yield the times of looks, after adding the records that are final by then to `progress`."""
    step = progress.experiment
    by_user = {exposure.user: exposure for exposure in traffic.exposures}
    ends = np.array([end(request) for request in traffic.requests])
    asked = np.array([request.at for request in traffic.requests])
    shown = np.array([exposure.at for exposure in traffic.exposures])
    before = step.since - 1
    for now in np.arange(step.since + LOOK_S, step.since + CONFIG.max_step_s + 1, LOOK_S):
        new = np.flatnonzero((shown > before) & (shown <= now))
        progress.add_exposures([traffic.exposures[one] for one in new])
        over = np.flatnonzero((shown + CONFIG.observation_s > before) & (shown + CONFIG.observation_s <= now))
        users = {traffic.exposures[one].user: traffic.exposures[one] for one in over}
        said = [event for event in traffic.feedback if event.user in users]
        progress.add_users(progress.users_of(Traffic(exposures=list(users.values()), feedback=said), now))
        # A request and its copy form one record, which is final at the later end.
        latest = ends.reshape(-1, 2).max(1).repeat(2) if step.shadow else ends
        answered = [traffic.requests[one] for one in np.flatnonzero((latest > before) & (latest <= now))]
        copied = [traffic.requests[one] for one in np.flatnonzero((asked > before) & (asked <= now))]
        progress.add_copies(copied)
        exposures = [by_user[user] for user in {request.user for request in answered}]
        progress.add_answers(progress.answers_of(Traffic(exposures=exposures, requests=answered)))
        progress.end_answers(now)
        before = now
        yield float(now)


def climb(random: np.random.Generator, kind: Kind, effect: float) -> list[str]:
    """Return the events of one release. A person promotes an undecided release, so that each has a watch."""
    release, happened = state.start("r1", "new", "old", CONFIG, 0.0, salt="salt"), []
    while (step := release.experiment) and release.watch is not Watch.alarm:
        release = after(release, Progress(CONFIG, step), visitors(random, kind, step, effect))
        if release.phase is Phase.promoted and step.last:
            happened.append("promoted")
        if release.phase is Phase.paused:
            happened.append("undecided")
            release, _ = state.promote(release, by="person", reason="", now=release.since + USERS, unverified=None)
    if release.phase is Phase.rolled_back:
        happened.append("withdrawn as worse" if "significantly worse" in release.reason else "withdrawn by a guardrail")
    return [*happened, *(["alarm in the watch"] if release.watch is Watch.alarm else [])]


def after(release: Release, progress: Progress, traffic: Traffic) -> Release:
    """Return the release after the end of one of its steps."""
    for now in looks(progress, traffic):
        moved, transition = state.advance(release, decide(progress, now), now=now, unverified=None)
        if transition is not None:
            return moved
    raise AssertionError(f"{release.state} did not end")


def plot(shares: dict[str, list[float]], path: str) -> None:
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(9, 4))
    places = np.arange(len(shares))
    for number, name in enumerate(ENDS[:-1]):
        heights = [100 * found[number] for found in shares.values()]
        axes.bar(places + 0.2 * (number - 1.5), heights, 0.2, label=name)
    axes.axhline(100 * CONFIG.false_promotions, color="black", linestyle=":", label="stated rate")
    axes.set(xticks=places, xticklabels=list(shares), ylabel="% of candidates")
    axes.legend()
    figure.tight_layout()
    figure.savefig(Path(path), dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--releases", type=int, default=500)
    parser.add_argument("--effect", type=float, default=0.0)
    parser.add_argument("--figure", metavar="FILE")
    arguments = parser.parse_args()
    shares: dict[str, list[float]] = {}
    for row, (name, kind) in enumerate(KINDS.items()):
        random = np.random.Generator(np.random.PCG64([3, row]))
        rounds = track(range(arguments.releases), description=name)
        ends = Counter(event for _ in rounds for event in climb(random, kind, arguments.effect))
        shares[name] = [ends[one] / arguments.releases for one in ENDS]
        # Printed at once: the rest takes long, and may be interrupted before the table is printed.
        print(name, dict(ends), flush=True)
    rows: list[list[object]] = [[name, *(f"{100 * share:.1f} %" for share in found)] for name, found in shares.items()]
    table(
        f"Releases of candidates with an effect of {arguments.effect:g}: shadow, steps {tuple(CONFIG.steps)}, watch, "
        f"{USERS:,} users each, two guardrails, {arguments.releases} releases. Stated of equal ones: at most "
        f"{CONFIG.false_promotions:.0%} promoted, at most {CONFIG.false_withdrawals:.0%} withdrawn or alarmed",
        ["traffic", *ENDS],
        rows,
    )
    if arguments.figure:
        plot(shares, arguments.figure)


if __name__ == "__main__":
    main()

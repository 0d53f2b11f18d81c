"""Configuration of releases: goal, guardrails and steps."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, field
from enum import StrEnum

from rlhf.types import InputError
from serve.statistics.metrics import MINIMA, OUTCOME, QUANTILES, REQUEST_METRICS, is_user_metric, metric_names


class Test(StrEnum):
    """Test of the goal metric."""

    sequential = "sequential"
    """Always valid: may be looked at any number of times."""
    fixed = "fixed"
    """Welch's t-test within blocks of time, looked at once, when both arms have `users_per_arm` users."""


@dataclass(kw_only=True, slots=True)
class GoalConfig:
    """The goal metric, which the candidate has to improve."""

    metric: str = "thumbs"
    """`thumbs`, `rating`, `edits`, `regenerations`, `turns`, `retention`, or `outcome:NAME`."""
    higher_is_better: bool = True
    """Direction of the metric; fewer edits and regenerations are better."""
    low: float = 0.0
    """Smallest value of a user; smaller ones are raised to it."""
    high: float = 1.0
    """Largest value of a user; larger ones are lowered to it."""
    unanswered: float | None = None
    """Value of an exposed user without a value, so that silent users count too. None: the middle of `low` and `high`
    for thumbs, ratings and outcomes, `low` for counts."""
    test: Test = Test.sequential
    """Test of the metric."""
    min_users: int = 100
    """Users with a value that each arm needs before a step is passed."""
    users_per_arm: int | None = None
    """Users of the smaller arm at which the fixed test looks; `launch/release.py power` computes it. None with the
    sequential test."""


@dataclass(kw_only=True, slots=True)
class GuardrailConfig:
    """A metric that must not become worse. Exactly one limit is set."""

    metric: str = ""
    """A goal's metric, or a metric of requests: `error_rate`, `latency_p95_s`, `latency_p99_s`, `first_token_p95_s`,
    `completion_tokens`."""
    at_most: float | None = None
    """Upper limit of the candidate's own value."""
    at_least: float | None = None
    """Lower limit of the candidate's own value."""
    at_most_ratio: float | None = None
    """Upper limit as a multiple of the predecessor's value."""
    worse_by: float | None = None
    """Allowed worsening in the metric's unit: above the predecessor's value, or below it with `higher_is_better`."""
    higher_is_better: bool = False
    """Direction of the metric: true if lower is worse."""
    low: float = 0.0
    """Smallest value of one user or request; smaller ones are raised to it."""
    high: float = 1.0
    """Largest value of one user or request; larger ones are lowered to it. Unused by quantiles."""
    min_samples: int = 100
    """Users of the candidate that a step needs before it is passed; with a relative limit, also users of the
    predecessor."""


LIMITS = ("at_most", "at_least", "at_most_ratio", "worse_by")
"""Fields of a guardrail's limit; exactly one is set."""


@dataclass(kw_only=True, slots=True)
class ReleaseConfig:
    """Steps of a release: shadow, then canary steps, then promoted."""

    shadow_fraction: float = 1.0
    """Share of requests that the candidate answers in the shadow, unseen by users. 0: no shadow step."""
    shadow_requests: int = 200
    """Number of shadow requests before the first users see the candidate."""
    steps: list[float] = field(default_factory=lambda: [0.01, 0.05, 0.25, 0.5])
    """Share of users that see the candidate, by step."""
    interval_s: float = 60.0
    """Seconds between two looks."""
    min_step_s: float = 3600.0
    """Shortest duration of a step, in seconds."""
    max_step_s: float = 14 * 86400.0
    """Seconds after which an undecided step is inconclusive, and waits for a person."""
    observation_s: float = 86400.0
    """Seconds after the first exposure during which a user's actions count; then the user's value enters the test,
    once."""
    retention_after_s: float = 3600.0
    """Seconds after a user's first request of a step from which on a further request counts as retention."""
    watch_s: float = 7 * 86400.0
    """Seconds after a promotion during which the candidate is still compared with its predecessor; a breached guardrail
    or a worse goal raises an alarm, and a person decides. 0: no watch."""
    holdback: float = 0.05
    """Share of users who keep the predecessor during the watch."""
    guardrail_window_s: float = 60.0
    """Seconds after the end of a user's first request within which requests count in a guardrail on requests."""
    guardrail_period_s: float = 86400.0
    """Length in seconds of the period in which such a guardrail counts a user once, regardless of the number of
    requests."""
    false_promotions: float = 0.05
    """Probability that a candidate no better than its predecessor is promoted."""
    false_withdrawals: float = 0.05
    """Probability that a candidate as good as its predecessor is withdrawn, or raises an alarm in its watch. Half is
    for the goal, divided among the steps with users, half for the guardrails, divided among guardrails and steps;
    without guardrails all is for the goal."""
    max_owner_share: float = 0.1
    """Largest share of a step's users that one owner of keys may bring; further users, in order of exposure, are
    answered as before but left out of the verdict. Users without a key have no owner and no limit. 1: no limit."""
    services: list[str] = field(default_factory=list)
    """Owners of keys that are services with many users, to whom `max_owner_share` does not apply. If none is named, an
    owner who has brought more than half of the users counts as a service; without such an owner the limit applies once
    1 / share owners take part."""
    allow: list[str] = field(default_factory=list)
    """Users who always see the candidate; they are not part of the experiment."""
    deny: list[str] = field(default_factory=list)
    """Users who never see the candidate; they are not part of the experiment."""
    goal: GoalConfig = field(default_factory=GoalConfig)
    """The goal metric, which the candidate has to improve."""
    guardrails: dict[str, GuardrailConfig] = field(default_factory=dict)
    """Guardrails by a name of the user's choice, as in
    `+release.guardrails={errors: {metric: error_rate, at_most: 0.02}}`."""

    @property
    def metrics(self) -> set[str]:
        """Metrics of the goal and of guardrails."""
        return {self.goal.metric, *(guardrail.metric for guardrail in self.guardrails.values())}

    @property
    def outcomes(self) -> set[str]:
        """Names of outcomes that metrics read."""
        return {metric.removeprefix(OUTCOME) for metric in self.metrics if metric.startswith(OUTCOME)}

    @property
    def alpha_worse(self) -> float:
        """Probability of a false withdrawal because of the goal in one step."""
        shared = 2 if self.guardrails else 1
        return self.false_withdrawals / shared / (len(self.steps) + bool(self.watch_s))

    @property
    def alpha_guardrail(self) -> float:
        """Probability of a false alarm of one guardrail in one step."""
        steps = bool(self.shadow_fraction) + len(self.steps) + bool(self.watch_s)
        return self.false_withdrawals / 2 / (len(self.guardrails) * steps)

    def __post_init__(self) -> None:
        check_steps(self)
        check_goal(self.goal)
        for name, guardrail in self.guardrails.items():
            check_guardrail(f"release.guardrails.{name}", guardrail)
        if "retention" in self.metrics and not 0 < self.retention_after_s < self.observation_s:
            raise InputError(
                f"release.retention_after_s={self.retention_after_s}: give more than 0 and less than "
                f"release.observation_s={self.observation_s}, or no user could be retained"
            )


def check_steps(config: ReleaseConfig) -> None:
    """Raise InputError for steps, shares or times that cannot make a release."""
    shares = [0.0, *config.steps, 1.0]
    if not config.steps or not all(low < high for low, high in itertools.pairwise(shares)):
        raise InputError(f"release.steps={config.steps}: give at least one share between 0 and 1, each above the last")
    if not 0 <= config.shadow_fraction <= 1:
        raise InputError(f"release.shadow_fraction={config.shadow_fraction}: give a share from 0 to 1")
    for name in ("false_promotions", "false_withdrawals"):
        if not 0 < getattr(config, name) < 1:
            raise InputError(f"release.{name}={getattr(config, name)}: give a probability between 0 and 1")
    for name in ("interval_s", "observation_s", "max_step_s", "guardrail_window_s", "guardrail_period_s"):
        if not 0 < getattr(config, name) < math.inf:
            raise InputError(f"release.{name}={getattr(config, name)}: give seconds above 0")
    if not 0 < config.max_owner_share <= 1:
        raise InputError(
            f"release.max_owner_share={config.max_owner_share}: give a share above 0; 1 leaves every user in"
        )
    if not 0 <= config.watch_s < math.inf:
        raise InputError(f"release.watch_s={config.watch_s}: give seconds, 0 for no watch")
    if not 0 < config.holdback < 1:
        raise InputError(f"release.holdback={config.holdback}: give a share between 0 and 1; watch_s=0 leaves it out")
    if not 0 <= config.min_step_s <= config.max_step_s:
        raise InputError(f"release.min_step_s={config.min_step_s}: give 0 to release.max_step_s={config.max_step_s}")
    if both := sorted(set(config.allow) & set(config.deny)):
        raise InputError(f"release.allow and release.deny both name {both[0]!r}: remove one of them")


def check_goal(goal: GoalConfig) -> None:
    """Raise InputError for a goal that could not be measured or reached."""
    if not is_user_metric(goal.metric):
        raise InputError(f"release.goal.metric={goal.metric!r}: name one of {metric_names(of_requests=False)}")
    check_range("release.goal", goal)
    if goal.unanswered is not None and not goal.low <= goal.unanswered <= goal.high:
        raise InputError(f"release.goal.unanswered={goal.unanswered}: give a value from low={goal.low} to {goal.high}")
    if goal.min_users < 1:
        raise InputError(f"release.goal.min_users={goal.min_users}: give at least 1")
    if goal.test is Test.fixed and (goal.users_per_arm is None or goal.users_per_arm < max(2, goal.min_users)):
        raise InputError(
            f"release.goal.users_per_arm={goal.users_per_arm}: the fixed test needs its horizon, at least "
            f"release.goal.min_users={goal.min_users}; `launch/release.py power` computes it"
        )


def check_guardrail(place: str, guardrail: GuardrailConfig) -> None:
    """Raise InputError for a guardrail without a metric, without exactly one limit, or with a limit that no candidate
    can breach."""
    metric = guardrail.metric
    if metric not in REQUEST_METRICS and not is_user_metric(metric):
        raise InputError(f"{place}.metric={metric!r}: name one of {metric_names(of_requests=True)}")
    limits = {name: limit for name in LIMITS if (limit := getattr(guardrail, name)) is not None}
    if len(limits) != 1:
        raise InputError(f"{place}: set exactly one of {', '.join(LIMITS)}, not {', '.join(limits) or 'none'}")
    ((name, limit),) = limits.items()
    if not math.isfinite(limit) or (limit <= 0 if name == "at_most_ratio" else limit < 0):
        raise InputError(f"{place}.{name}={limit}: give a finite number, not negative, and a ratio above 0")
    check_range(place, guardrail)
    if guardrail.min_samples < 1:
        raise InputError(f"{place}.min_samples={guardrail.min_samples}: give at least 1")
    if metric in QUANTILES:
        if guardrail.higher_is_better:
            raise InputError(f"{place}.higher_is_better: lower is better for {metric}; leave it out")
        return
    low, high = guardrail.low, guardrail.high
    reachable = {
        "at_most": low <= limit < high,
        "at_least": low < limit <= high,
        "at_most_ratio": low == 0,
        "worse_by": limit < high - low,
    }
    if not reachable[name]:
        raise InputError(
            f"{place}.{name}={limit}: values from low={low} to high={high} could never breach it; "
            "give the range that values have (a ratio needs low=0)"
        )


def check_range(place: str, config: GoalConfig | GuardrailConfig) -> None:
    if not (math.isfinite(config.low) and math.isfinite(config.high) and config.low < config.high):
        raise InputError(f"{place}: low={config.low}, high={config.high}: give finite numbers, the lower one first")
    if config.high <= MINIMA.get(config.metric, -math.inf):
        raise InputError(
            f"{place}.high={config.high}: every value of {config.metric} is at least "
            f"{MINIMA[config.metric]:g}, so all would be the same; set high to the largest value that matters"
        )

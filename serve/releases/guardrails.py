"""Guardrails: one sequential test for each, so that every look may decide.

The unit is the user, not the request, counted once per period; candidate and predecessor are compared at the same
times, so that load that affects both is no breach.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from serve.releases.config import LIMITS, GuardrailConfig
from serve.statistics.betting import Bets, Evidence, ExceedanceTest, over_periods, share_of_alpha
from serve.statistics.metrics import QUANTILES, unanswered
from serve.statistics.quantiles import Histogram, QuantileLevels
from serve.statistics.sequential import Trial, WorseningTest
from serve.statistics.visits import Unit

ARMS = ("candidate", "predecessor")


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """Result of one test for a step."""

    against: str | None = None
    """Reason to withdraw the candidate; None if there is none."""
    waits: tuple[str, ...] = ()
    """Reason why the step cannot be passed yet; None if it can."""
    passes: tuple[str, ...] = ()
    """Sentence in favour of the candidate, used if there is no reason to withdraw it."""
    final: bool = False
    """True if further waiting cannot change the result."""
    evidence: dict[str, Any]


class Guardrail:
    """One guardrail of one step; an equal candidate breaches it with probability at most `alpha`."""

    def __init__(self, name: str, config: GuardrailConfig, *, alpha: float) -> None:
        self.name, self.config, self.alpha = name, config, alpha
        self.kind, self.given = limit_of(config)
        self.tests = [self.test(0)]
        """One test per period."""
        self.counts = dict.fromkeys(ARMS, 0)
        """Users with a value, by arm; with a moving limit only those who came when the limit was known."""
        self.typical = {arm: Typical(config) for arm in ARMS}
        self.levels = QuantileLevels(QUANTILES[config.metric]) if config.metric in QUANTILES else None

    @property
    def relative(self) -> bool:
        return self.kind in ("at_most_ratio", "worse_by")

    @property
    def terms(self) -> tuple[float, float]:
        """Ratio and summand of a relative limit, in the metric's own unit."""
        return (self.given, 0.0) if self.kind == "at_most_ratio" else (1.0, self.given)

    def test(self, period: int) -> ExceedanceTest | WorseningTest:
        """Make the test of a period, with its share of alpha: of a mean, or of the share of requests above a level."""
        config, bets = self.config, Bets(share_of_alpha(self.alpha, period))
        quantile = QUANTILES.get(config.metric)
        span = config.high - config.low
        if self.kind == "at_most":
            return ExceedanceTest((self.given - config.low) / span if quantile is None else 1 - quantile, bets)
        if self.kind == "at_least":
            return ExceedanceTest((config.high - self.given) / span if quantile is None else quantile, bets)
        ratio, by = self.terms
        return WorseningTest(bets, ratio, by / span) if quantile is None else WorseningTest(bets)

    def add(self, period: int, units: Sequence[Unit]) -> None:
        """Add users of one period, in order. Periods must not decrease."""
        while len(self.tests) <= period:
            self.tests.append(self.test(len(self.tests)))
        for unit in units:
            for arm in ARMS:
                if values := getattr(unit, arm):
                    self.typical[arm].add(values)
        compared = self.add_shares(period, units) if self.levels else self.add_means(period, units)
        for arm in ARMS:
            self.counts[arm] += sum(bool(getattr(unit, arm)) for unit in compared)

    def add_means(self, period: int, units: Sequence[Unit]) -> Sequence[Unit]:
        """Add each user's mean, scaled to [0, 1] where 1 is worse."""
        config = self.config
        ours = [badness(config, unit.candidate) for unit in units]
        theirs = [badness(config, unit.predecessor) for unit in units]
        nothing = badness(config, [unanswered(config.metric, config.low, config.high)])
        add_users(self.tests[period], units, ours, theirs, nothing=nothing)
        return units

    def add_shares(self, period: int, units: Sequence[Unit]) -> Sequence[Unit]:
        """Add each user's share of requests above a level; return the users for whom the level is known.

        The level is the limit itself, or the predecessor's current quantile. A relative limit is breached if the share
        of the candidate's requests above `ratio * level + by` exceeds the share of the predecessor's requests above
        `level`. That holds at no level if the candidate takes at most `ratio` times as long plus `by`.
        """
        if not self.relative:
            upper = self.kind == "at_most"
            level = self.given if upper else float(np.nextafter(self.given, -np.inf))
            shares = [share_above(unit.candidate, level) for unit in units]
            add_users(self.tests[period], units, shares if upper else [1 - share for share in shares], [], nothing=0.0)
            return units
        assert self.levels is not None
        levels, (ratio, by) = self.levels, self.terms
        compared, ours, theirs = [], [], []
        for unit in units:
            if levels.known:
                compared.append(unit)
                ours.append(share_above(unit.candidate, ratio * levels.level + by))
                theirs.append(share_above(unit.predecessor, levels.level))
            levels.add(unit.predecessor or ())
        add_users(self.tests[period], compared, ours, theirs, nothing=0.0)
        return compared

    def finding(self) -> Finding:
        config, test = self.config, over_periods([test.evidence() for test in self.tests])
        at = f"guardrail {self.name}: {config.metric}"
        waits = [
            f"{at} has {count} of {config.min_samples} users of the {arm} with a value"
            for arm, count in self.counts.items()
            if count < config.min_samples and (self.relative or arm == "candidate")
        ]
        if self.relative and self.levels and not self.levels.known:
            waits = [f"{at} has too few requests of the predecessor to know its quantile"]
        return Finding(
            against=f"{at} {breach(config, test)}" if test.exceeded else None,
            waits=tuple(waits),
            evidence={
                "metric": config.metric,
                self.kind: self.given,
                **{arm: self.typical[arm].value for arm in ARMS},
                **{f"num_{arm}": count for arm, count in self.counts.items()},
                "alpha": self.alpha,
                "num_periods": len(self.tests),
                "test": asdict(test),
            },
        )


def inspect_guardrail(
    name: str, config: GuardrailConfig, periods: Sequence[Sequence[Unit]], *, alpha: float
) -> Finding:
    """Test as `Guardrail` does, all users at once."""
    guardrail = Guardrail(name, config, alpha=alpha)
    for number, units in enumerate(periods):
        guardrail.add(number, units)
    return guardrail.finding()


class Typical:
    """One arm's value of the metric, in its own unit: the mean of users' means, or the quantile of all requests."""

    def __init__(self, config: GuardrailConfig) -> None:
        self.config = config
        self.total, self.count = 0.0, 0
        self.requests = Histogram()

    def add(self, values: Sequence[float]) -> None:
        """Add the values of one user."""
        if self.config.metric in QUANTILES:
            self.requests.add(values)
        else:
            self.total += clipped_mean(values, self.config)
            self.count += 1

    @property
    def value(self) -> float | None:
        if self.config.metric in QUANTILES:
            return self.requests.quantile(QUANTILES[self.config.metric])
        return self.total / self.count if self.count else None


def add_users(
    test: ExceedanceTest | WorseningTest,
    units: Sequence[Unit],
    ours: Sequence[float],  # NaN: no value
    theirs: Sequence[float],
    *,
    nothing: float,
) -> None:
    """Add users to the test: the candidate's only, those of both arms, or, in the shadow, both values of every user;
    `nothing` replaces missing values."""
    if isinstance(test, ExceedanceTest):
        values = np.array(ours, float)
        test.add(values[~np.isnan(values)])
    elif units and units[0].both:
        test.add_pairs(*(np.nan_to_num(np.array(arm, float), nan=nothing) for arm in (ours, theirs)))
    else:
        candidate = np.array([unit.candidate is not None for unit in units], bool)
        trial = Trial(
            candidate=candidate,
            probability=np.array([unit.probability for unit in units], float),
            values=np.where(candidate, np.array(ours, float), np.array(theirs, float)),
        )
        test.add(trial.filled(nothing))


def limit_of(config: GuardrailConfig) -> tuple[str, float]:
    """Return which limit is set, and its value."""
    return next((kind, limit) for kind in LIMITS if (limit := getattr(config, kind)) is not None)


def badness(config: GuardrailConfig, values: Sequence[float] | None) -> float:
    """Return a user's mean in [0, 1], where 1 is worse; NaN without values."""
    if not values:
        return float("nan")
    scaled = (clipped_mean(values, config) - config.low) / (config.high - config.low)
    return 1 - scaled if is_flipped(config) else scaled


def clipped_mean(values: Sequence[float], config: GuardrailConfig) -> float:
    low, high = config.low, config.high
    return sum(min(max(value, low), high) for value in values) / len(values)


def is_flipped(config: GuardrailConfig) -> bool:
    return config.at_least is not None or (config.worse_by is not None and config.higher_is_better)


def share_above(values: Sequence[float] | None, level: float) -> float:
    """Share of values above a level; NaN without values."""
    return sum(value > level for value in values) / len(values) if values else float("nan")


def breach(config: GuardrailConfig, test: Evidence) -> str:
    """State the figures that decided."""
    kind, given = limit_of(config)
    basis = f"({kind}={given:g}), after {test.num_samples} users"
    if config.metric in QUANTILES:
        level = "the predecessor's current quantile"
        relative = {"at_most_ratio": f"{given:g} times {level}", "worse_by": f"{level} plus {given:g} s"}
        than = relative.get(kind, f"{given:g} s")
        side = "less" if kind == "at_least" else "longer"
        share, allowed = format_value(test.mean), format_value(test.limit)
        return f"is breached: {share} of the requests take {side} than {than}, {allowed} may {basis}"
    value, limit = (None if figure is None else in_unit(config, figure) for figure in (test.mean, test.limit))
    side = "below" if is_flipped(config) else "above"
    return f"is {format_value(value)}, {side} the limit {format_value(limit)} {basis}"


def in_unit(config: GuardrailConfig, figure: float) -> float:
    """Scale a figure from [0, 1] to the metric's own unit."""
    span = config.high - config.low
    return config.high - figure * span if is_flipped(config) else config.low + figure * span


def format_value(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.4g}"

"""What must not become worse: one question per guardrail, asked sequentially, so that every look may act.

Users count, not requests, each once in a period; candidate and predecessor are compared at the same moments, so that
load which both share is no breach.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from serve.metrics import QUANTILES, scale, unanswered
from serve.release_settings import LIMITS, GuardrailConfig
from serve.stats.betting import Evidence, exceeds, over_periods, share_of_alpha
from serve.stats.sequential import Trial, worse, worse_paired
from serve.visits import Unit

RECENT = 1000
"""The predecessor's latest requests whose quantile stands for its quantile at the moment."""
STRIDE = 25
"""Requests after which that quantile is taken again."""
BEYOND = 5
"""Requests above a quantile without which it is not known: of p95 it takes 100 requests, of p99 500."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What one question says of a step."""

    against: str | None = None
    """Why the candidate has to go."""
    waits: tuple[str, ...] = ()
    """Why the step cannot be passed yet."""
    passes: tuple[str, ...] = ()
    """What is said for it if nothing else is the case."""
    final: bool = False
    """Whether waiting changes nothing any more."""
    evidence: dict[str, Any]


def inspect_guardrail(
    name: str, config: GuardrailConfig, periods: Sequence[Sequence[Unit]], *, alpha: float
) -> Finding:
    """Test whether the candidate breaches a guardrail; an equal one does with probability at most `alpha`."""
    kind, given = limit_of(config)
    relative = kind in ("at_most_ratio", "worse_by")
    levels = QuantileLevels(QUANTILES[config.metric]) if config.metric in QUANTILES else None
    test = over_periods(
        [
            quantile_test(config, units, levels, share_of_alpha(alpha, number))
            if levels
            else mean_test(config, units, share_of_alpha(alpha, number))
            for number, units in enumerate(periods or [()])
        ]
    )
    units = [unit for period in periods for unit in period]
    moving = levels if relative else None
    counts = num_users(moving.compared if moving else units)
    at = f"guardrail {name}: {config.metric}"
    waits = [
        f"{at} has {count} of {config.min_samples} users of the {arm} with a value"
        for arm, count in counts.items()
        if count < config.min_samples and (relative or arm == "candidate")
    ]
    if moving and not moving.known:
        waits = [f"{at} has too few requests of the predecessor to know its quantile"]
    arms = {"candidate": [unit.candidate for unit in units], "predecessor": [unit.predecessor for unit in units]}
    return Finding(
        against=f"{at} {breach(config, test)}" if test.exceeded else None,
        waits=tuple(waits),
        evidence={
            "metric": config.metric,
            kind: given,
            **{arm: typical(config, [values for values in arms[arm] if values]) for arm in arms},
            **{f"num_{arm}": count for arm, count in counts.items()},
            "alpha": alpha,
            "num_periods": len(periods),
            "test": asdict(test),
        },
    )


def num_users(units: Sequence[Unit]) -> dict[str, int]:
    """Users with a value by arm."""
    return {
        "candidate": sum(bool(unit.candidate) for unit in units),
        "predecessor": sum(bool(unit.predecessor) for unit in units),
    }


def limit_of(config: GuardrailConfig) -> tuple[str, float]:
    """Return which limit is set, and its value."""
    return next((kind, limit) for kind in LIMITS if (limit := getattr(config, kind)) is not None)


def mean_test(config: GuardrailConfig, units: Sequence[Unit], alpha: float) -> Evidence:
    """Test the mean over users of each one's mean, moved to [0, 1] where 1 is worse."""
    kind, given = limit_of(config)
    ours = [badness(config, unit.candidate) for unit in units]
    theirs = [badness(config, unit.predecessor) for unit in units]
    span = config.high - config.low
    if kind == "at_most":
        return exceeds(known(ours), (given - config.low) / span, alpha=alpha)
    if kind == "at_least":
        return exceeds(known(ours), (config.high - given) / span, alpha=alpha)
    nothing = badness(config, [unanswered(config.metric, config.low, config.high)])
    ratio, by = (given, 0.0) if kind == "at_most_ratio" else (1.0, given / span)
    return compare_users(units, ours, theirs, nothing=nothing, alpha=alpha, ratio=ratio, by=by)


def badness(config: GuardrailConfig, values: Sequence[float] | None) -> float:
    """A user's mean in [0, 1], where 1 is worse; NaN without values."""
    if not values:
        return float("nan")
    scaled = float(scale(np.asarray(values, float), config.low, config.high).mean())
    return 1 - scaled if is_flipped(config) else scaled


def is_flipped(config: GuardrailConfig) -> bool:
    return config.at_least is not None or (config.worse_by is not None and config.higher_is_better)


def known(values: Sequence[float]) -> np.ndarray:
    found = np.array(values, float)
    return found[~np.isnan(found)]


def compare_users(
    units: Sequence[Unit],
    ours: Sequence[float],  # NaN: no value
    theirs: Sequence[float],
    *,
    nothing: float,
    alpha: float,
    ratio: float = 1.0,
    by: float = 0.0,
) -> Evidence:
    """Compare the users of both arms, or in the shadow both arms of every user; `nothing` is a missing value."""
    if units and units[0].both:
        pair = (np.nan_to_num(np.array(arm, float), nan=nothing) for arm in (ours, theirs))
        return worse_paired(*pair, alpha=alpha, ratio=ratio, by=by)
    candidate = np.array([unit.candidate is not None for unit in units], bool)
    trial = Trial(
        candidate=candidate,
        probability=np.array([unit.probability for unit in units], float),
        values=np.where(candidate, np.array(ours, float), np.array(theirs, float)),
    )
    return worse(trial.filled(nothing), alpha=alpha, ratio=ratio, by=by)


class QuantileLevels:
    """The predecessor's quantile of the moment, from earlier requests alone."""

    def __init__(self, quantile: float) -> None:
        self.quantile = quantile
        self.recent: deque[float] = deque(maxlen=RECENT)
        self.level, self.since = float("nan"), 0
        self.compared: list[Unit] = []
        """Users who came when the level was known."""

    @property
    def known(self) -> bool:
        return not np.isnan(self.level)

    def add(self, values: Sequence[float]) -> None:
        self.recent.extend(values)
        self.since += len(values)
        enough = len(self.recent) * (1 - self.quantile) >= BEYOND
        if enough and (self.since >= STRIDE or not self.known):
            self.level, self.since = float(np.quantile(self.recent, self.quantile)), 0


def quantile_test(config: GuardrailConfig, units: Sequence[Unit], levels: QuantileLevels, alpha: float) -> Evidence:
    """Test a quantile by the shares of users' requests beyond a level.

    The level is the limit itself, or the predecessor's quantile of the moment. A relative limit is breached where more
    of the candidate's requests take longer than `ratio * level + by` than of the predecessor's take longer than
    `level`, which is so at no level where the candidate takes at most `ratio` times as long plus `by`.
    """
    kind, given = limit_of(config)
    if kind == "at_most":
        return exceeds(known([share_above(unit.candidate, given) for unit in units]), 1 - levels.quantile, alpha=alpha)
    if kind == "at_least":
        reached = known([share_above(unit.candidate, np.nextafter(given, -np.inf)) for unit in units])
        return exceeds(1 - reached, levels.quantile, alpha=alpha)
    ratio, by = (given, 0.0) if kind == "at_most_ratio" else (1.0, given)
    first, ours, theirs = len(levels.compared), [], []
    for unit in units:
        if levels.known:
            levels.compared.append(unit)
            ours.append(share_above(unit.candidate, ratio * levels.level + by))
            theirs.append(share_above(unit.predecessor, levels.level))
        levels.add(unit.predecessor or ())
    return compare_users(levels.compared[first:], ours, theirs, nothing=0.0, alpha=alpha)


def share_above(values: Sequence[float] | None, level: float) -> float:
    """Share of values above a level; NaN without any."""
    return float((np.asarray(values) > level).mean()) if values else float("nan")


def typical(config: GuardrailConfig, users: Sequence[Sequence[float]]) -> float | None:
    """The metric's value of one arm, in its own unit: the mean of users' means, or the quantile of all requests."""
    if not users:
        return None
    if config.metric in QUANTILES:
        return float(np.quantile(np.concatenate(users), QUANTILES[config.metric]))
    return float(np.mean([np.clip(values, config.low, config.high).mean() for values in users]))


def breach(config: GuardrailConfig, test: Evidence) -> str:
    """State the figures that decided."""
    kind, given = limit_of(config)
    told = f"({kind}={given:g}), after {test.num_samples} users"
    if config.metric in QUANTILES:
        level = "the predecessor's quantile of the moment"
        relative = {"at_most_ratio": f"{given:g} times {level}", "worse_by": f"{level} plus {given:g} s"}
        than = relative.get(kind, f"{given:g} s")
        side = "less" if kind == "at_least" else "longer"
        return (
            f"is breached: {shown(test.mean)} of the requests take {side} than {than}, {shown(test.limit)} may {told}"
        )
    value, limit = (None if figure is None else in_unit(config, figure) for figure in (test.mean, test.limit))
    return f"is {shown(value)}, {'below' if is_flipped(config) else 'above'} the limit {shown(limit)} {told}"


def in_unit(config: GuardrailConfig, figure: float) -> float:
    """From [0, 1] to the metric's own unit."""
    span = config.high - config.low
    return config.high - figure * span if is_flipped(config) else config.low + figure * span


def shown(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.4g}"

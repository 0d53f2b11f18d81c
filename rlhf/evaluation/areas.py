"""Improvement on a baseline by area: everything, capabilities together, and each area."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rlhf.evaluation.forms import CAPABILITIES, Area
from rlhf.evaluation.overall import overall_improvement
from rlhf.evaluation.results import Figure, Scores
from rlhf.ops.intervals import Estimate

ALL, CAPABILITY = "all", "capability"


@dataclass(frozen=True, slots=True, kw_only=True)
class AreaRow:
    """Improvement in one area."""

    name: str
    """`all`, `capability`, or an `Area`."""
    improvement: Estimate
    """Weighted mean of the figures' improvements, in their units."""
    num_worse: int
    """Number of figures, of all items, whose interval of the difference is on the worse side of 0."""
    num_better: int
    num_figures: int
    """Number of figures with a weight."""


def area_rows(scores: Sequence[Scores], figures: Sequence[Figure], weights: Mapping[str, float]) -> list[AreaRow]:
    """Return a row for everything, for capabilities together and for each area, as far as figures with a weight are in
    it. `weights` are by SUITE/METRIC; suites without a baseline do not count."""
    compared = [each for each in scores if each.theirs is not None]
    areas = {each.suite.name: each.suite.config.area for each in compared}
    parts: dict[str, set[Area | None]] = {ALL: {*Area, None}, CAPABILITY: {*CAPABILITIES}}
    parts |= {str(area): {area} for area in Area}
    rows = [area_row(name, [each for each in compared if areas[each.suite.name] in members], figures, weights)
            for name, members in parts.items()]  # fmt: skip
    return [row for row in rows if row is not None]


def area_row(
    name: str, scores: Sequence[Scores], figures: Sequence[Figure], weights: Mapping[str, float]
) -> AreaRow | None:
    pairs, own = [], []
    for each in scores:
        named = {metric: weights[key] for metric in each.metrics if (key := f"{each.suite.name}/{metric}") in weights}
        if named:
            own.append(named)
            pairs.append({metric: each.pair(metric) for metric in named})
    if not pairs:
        return None
    suites = {each.suite.name for each in scores}
    changes = [figure.change for figure in figures if figure.suite in suites and not figure.slice]
    return AreaRow(
        name=name,
        improvement=overall_improvement(pairs, own),
        num_worse=changes.count("worse"),
        num_better=changes.count("better"),
        num_figures=sum(map(len, own)),
    )

"""Figures of an evaluation: every metric of every suite, over all items and over slices of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rlhf.evaluation.estimates import Comparison, compare, estimate
from rlhf.evaluation.gate_checks import Measurement
from rlhf.evaluation.items import Answer, Item
from rlhf.evaluation.metrics.base import Metric
from rlhf.evaluation.metrics.lookup import find_metric
from rlhf.evaluation.suite import Suite
from rlhf.ops.intervals import Estimate
from rlhf.types import InputError


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """A metric of a suite, or of a slice of its items."""

    suite: str
    metric: str
    slice: str
    """Slice of the items, as `subject=law`. Empty: all items."""
    estimate: Estimate
    comparison: Comparison | None
    """Comparison with the baseline on the same items; None without one."""
    larger_is_better: bool | None
    num_items: int
    digest: str
    """`Suite.digest`, the version of what was asked."""

    @property
    def name(self) -> str:
        return "/".join(filter(None, (self.suite, self.metric, self.slice)))

    def as_measurement(self, baseline_digest: str | None) -> Measurement:
        """Return the figure as a gate reads it."""
        return Measurement(
            estimate=self.estimate,
            larger_is_better=self.larger_is_better,
            version=self.digest[:12],
            comparison=self.comparison,
            baseline_version=(baseline_digest or "")[:12],
        )


def metrics_of(suite: str, options: Mapping[str, Any]) -> dict[str, Metric]:
    """Return a suite's metrics by name. Raises InputError for an unknown metric or option, or if there is none."""
    if not options:
        raise InputError(f"suite.{suite}.metrics is empty: name one, as in {{exact_match: {{}}}}")
    return {name: find_metric(name, given or {}, f"suite.{suite}.metrics") for name, given in options.items()}


def figures_of(
    suite: Suite,
    metrics: Mapping[str, Metric],
    answers: Sequence[Answer],
    baseline: Sequence[Answer] | None,
) -> list[Figure]:
    """Return all figures of a suite, from the answers to its items in their order, and those of a baseline to the same
    items."""
    items_by_id = {item.id: item for item in suite.items}
    items = [items_by_id[answer.item] for answer in answers]
    clusters = np.unique([item.cluster or item.id for item in items], return_inverse=True)[1]
    parts = {"": np.ones(len(items), dtype=bool), **slices_of(suite.config.slices, items)}
    figures = []
    for name, metric in metrics.items():
        ours = metric.statistics(items, answers)
        theirs = None if baseline is None else metric.statistics(items, baseline)
        for part, members in parts.items():
            figures.append(
                Figure(
                    suite=suite.name,
                    metric=name,
                    slice=part,
                    estimate=estimate(metric, ours[members], clusters[members]),
                    comparison=None
                    if theirs is None
                    else compare(metric, ours[members], theirs[members], clusters[members]),
                    larger_is_better=metric.larger_is_better,
                    num_items=len({item.id for item, is_member in zip(items, members, strict=True) if is_member}),
                    digest=suite.digest,
                )
            )
    return figures


def slices_of(keys: Sequence[str], items: Sequence[Item]) -> dict[str, np.ndarray]:
    """Return for each slice, such as `subject=law`, which answers are in it: [N] bool. Raises InputError if no item has
    the field."""
    slices: dict[str, np.ndarray] = {}
    for key in keys:
        values = [None if item.meta.get(key) is None else str(item.meta[key]) for item in items]
        known = sorted({value for value in values if value is not None})
        if not known:
            raise InputError(
                f"slices={key}: no item has this field; the first has {', '.join(map(str, items[0].meta)) or 'none'}"
            )
        for value in known:
            slices[f"{key}={value}"] = np.array([each == value for each in values])
    return slices


def figure_names(suite: Suite, metrics: Mapping[str, Metric]) -> Iterator[str]:
    """Yield the names of the figures that a suite will have."""
    parts = ["", *slices_of(suite.config.slices, suite.items)]
    for metric in metrics:
        yield from ("/".join(filter(None, (suite.name, metric, part))) for part in parts)

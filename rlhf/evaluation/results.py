"""Figures of an evaluation: every metric of every suite, over all items and over slices of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rlhf.evaluation.estimates import Comparison, cluster_sums, compare, estimate
from rlhf.evaluation.gate_checks import Measurement
from rlhf.evaluation.items import Answer, Item
from rlhf.evaluation.metrics.base import Metric
from rlhf.evaluation.metrics.lookup import find_metric
from rlhf.evaluation.overall import Pair
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

    @property
    def change(self) -> str:
        """`worse` or `better` than the baseline, `other` for a figure without a better direction, or `none` if the
        interval of the difference has 0, or there is no baseline."""
        compared = self.comparison
        if compared is None or not (compared.difference.low > 0 or compared.difference.high < 0):
            return "none"
        if self.larger_is_better is None:
            return "other"
        return "better" if (compared.difference.mean > 0) == self.larger_is_better else "worse"

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """Statistics of every answer to a suite, by metric."""

    suite: Suite
    metrics: Mapping[str, Metric]
    items: Sequence[Item]
    """Item of each answer."""
    clusters: np.ndarray  # [N] int, from 0 without a gap
    ours: Mapping[str, np.ndarray]  # [N, D] each
    theirs: Mapping[str, np.ndarray] | None
    """Statistics of the baseline; None without one."""

    def pair(self, metric: str) -> Pair:
        """Return the cluster sums of both systems. There must be a baseline."""
        assert self.theirs is not None
        sums = [cluster_sums(each[metric], self.clusters) for each in (self.ours, self.theirs)]
        return Pair(metric=self.metrics[metric], ours=sums[0], theirs=sums[1])


def score(
    suite: Suite, metrics: Mapping[str, Metric], answers: Sequence[Answer], baseline: Sequence[Answer] | None
) -> Scores:
    """Return the statistics of the answers to a suite's items, in their order, and of a baseline's to the same
    items."""
    items_by_id = {item.id: item for item in suite.items}
    items = [items_by_id[answer.item] for answer in answers]
    theirs = None
    if baseline is not None:
        theirs = {name: metric.statistics(items, baseline) for name, metric in metrics.items()}
    return Scores(
        suite=suite,
        metrics=metrics,
        items=items,
        clusters=np.unique([item.cluster or item.id for item in items], return_inverse=True)[1],
        ours={name: metric.statistics(items, answers) for name, metric in metrics.items()},
        theirs=theirs,
    )


def figures_of(scores: Scores) -> list[Figure]:
    """Return all figures of a suite, over all items and over slices."""
    whole: np.ndarray = np.ones(len(scores.items), dtype=bool)
    parts = {"": whole, **slices_of(scores.suite.config.slices, scores.items)}
    return [figure_of(scores, name, part, members) for name in scores.metrics for part, members in parts.items()]


def figure_of(scores: Scores, name: str, part: str, members: np.ndarray) -> Figure:
    """Return a metric's figure over the answers that are `members`, [N] bool."""
    metric, clusters, ours = scores.metrics[name], scores.clusters[members], scores.ours[name][members]
    compared = None if scores.theirs is None else compare(metric, ours, scores.theirs[name][members], clusters)
    return Figure(
        suite=scores.suite.name,
        metric=name,
        slice=part,
        estimate=estimate(metric, ours, clusters),
        comparison=compared,
        larger_is_better=metric.larger_is_better,
        num_items=len({item.id for item, is_member in zip(scores.items, members, strict=True) if is_member}),
        digest=scores.suite.digest,
    )


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

"""Quality of a reward model, from its scores of held-out pairs."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import stats

from rlhf.ops.intervals import estimate_share
from rlhf.types import InputError, RunError

NUM_BINS = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Bin:
    """Pairs of similar confidence."""

    num_pairs: int
    confidence: float
    """Mean probability of the side it prefers."""
    accuracy: float
    """Share of the pairs in which the preferred side is the chosen one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PreferenceReport:
    """Figures of one model on one set of pairs."""

    margins: np.ndarray  # [P] float64, chosen score less rejected score
    accuracy: float
    """Share of pairs whose chosen side scores higher; equal scores count half."""
    accuracy_interval: tuple[float, float]
    """95 %, clustered by prompt: `ops.intervals.share_interval`."""
    nll: float
    """Mean negative log likelihood of the preferences under Bradley and Terry, in nats."""
    calibration_error: float
    """Expected calibration error of sigmoid(margin) (Guo et al. 2017), in ten bins of confidence."""
    bins: Sequence[Bin]
    length_slope: float
    """Least-squares slope of the margin on the difference in tokens: score gained per extra token."""
    length_slope_error: float
    """Standard error of the slope."""
    longer_wins: float
    """Accuracy of always preferring the longer side; equal lengths count half."""
    kendall_tau: float | None
    """Tau-b between scores and graded qualities, where they are known."""
    spearman_rho: float | None

    def figures(self) -> dict[str, float]:
        """Return the figures by short names."""
        figures = {
            "pairs": float(len(self.margins)),
            "accuracy": self.accuracy,
            "accuracy_low": self.accuracy_interval[0],
            "accuracy_high": self.accuracy_interval[1],
            "nll": self.nll,
            "calibration_error": self.calibration_error,
            "length_slope": self.length_slope,
            "length_slope_error": self.length_slope_error,
            "longer_wins": self.longer_wins,
        }
        graded = {"kendall_tau": self.kendall_tau, "spearman_rho": self.spearman_rho}
        return figures | {name: value for name, value in graded.items() if value is not None}


def preference_report(
    chosen: np.ndarray,  # [P]
    rejected: np.ndarray,  # [P]
    chosen_tokens: np.ndarray,  # [P]
    rejected_tokens: np.ndarray,  # [P]
    prompts: np.ndarray,  # [P] int, equal for pairs of one prompt
    *,
    graded_chosen: np.ndarray | None = None,  # [P]
    graded_rejected: np.ndarray | None = None,  # [P]
) -> PreferenceReport:
    """Measure a model by its scores; P is at least 1. Rank correlations are over both sides of all pairs.

    Raises RunError if scores are not finite.
    """
    margins = np.asarray(chosen, dtype=np.float64) - rejected
    if num_wrong := int((~np.isfinite(margins)).sum()):
        raise RunError(
            f"{num_wrong} of {len(margins)} held-out pairs have scores that are not finite: the model diverged; train "
            "it again with a lower optimizer.lr"
        )
    longer = np.asarray(chosen_tokens, dtype=np.float64) - rejected_tokens
    slope, error = length_bias(margins, longer)
    tau = rho = None
    if graded_chosen is not None and graded_rejected is not None:
        scores = np.concatenate([chosen, rejected])
        grades = np.concatenate([graded_chosen, graded_rejected])
        tau, rho = float(stats.kendalltau(scores, grades)[0]), float(stats.spearmanr(scores, grades)[0])
    bins = reliability(margins)
    accuracy = estimate_share(points(margins), prompts)
    return PreferenceReport(
        margins=margins,
        accuracy=accuracy.mean,
        accuracy_interval=(accuracy.low, accuracy.high),
        nll=float(np.logaddexp(0.0, -margins).mean()),
        calibration_error=sum(each.num_pairs * abs(each.confidence - each.accuracy) for each in bins) / len(margins),
        bins=bins,
        length_slope=slope,
        length_slope_error=error,
        longer_wins=share_won(longer),
        kendall_tau=tau,
        spearman_rho=rho,
    )


def points(
    margins: np.ndarray,  # [P]
) -> np.ndarray:  # [P] float64
    """Return 1 for a positive margin, 1/2 for a tie, 0 for a negative one."""
    return (np.sign(margins) + 1) / 2


def share_won(
    margins: np.ndarray,  # [P]
) -> float:
    """Share of positive margins; those of 0 count half."""
    return float(points(margins).mean())


def reliability(
    margins: np.ndarray,  # [P]
) -> list[Bin]:
    """Sort pairs into ten bins by the probability of the preferred side, from 0.5 to 1; empty bins are left out."""
    confidence = 1 / (1 + np.exp(-np.abs(margins)))
    right = points(margins)
    places = np.minimum(((confidence - 0.5) * 2 * NUM_BINS).astype(int), NUM_BINS - 1)
    return [
        Bin(
            num_pairs=int(inside.sum()),
            confidence=float(confidence[inside].mean()),
            accuracy=float(right[inside].mean()),
        )
        for inside in (places == i for i in range(NUM_BINS))
        if inside.any()
    ]


def length_bias(
    margins: np.ndarray,  # [P]
    longer: np.ndarray,  # [P]
) -> tuple[float, float]:
    """Slope of the margin on the difference in length, with its standard error; NaN where lengths never differ."""
    if len(margins) < 3 or not np.ptp(longer):
        return math.nan, math.nan
    fit = stats.linregress(longer, margins)
    return float(fit.slope), float(fit.stderr)


def agreement(
    margins: Sequence[np.ndarray],  # M >= 2 arrays [P]
) -> dict[str, float]:
    """Return means over every two models on the same pairs: how often they prefer the same side, and Spearman's rho of
    their margins."""
    pairs = list(itertools.combinations(margins, 2))
    return {
        "agreement": float(np.mean([np.mean(np.sign(a) == np.sign(b)) for a, b in pairs])),
        "margin_spearman": float(np.mean([stats.spearmanr(a, b)[0] for a, b in pairs])),
    }


def folds(groups: Sequence[int], num_folds: int, seed: int) -> list[tuple[list[int], list[int]]]:
    """Return the training and the held-out indices of each fold. Every index is held out once, equal groups in the same
    fold.

    Raises InputError if there are fewer groups than folds.
    """
    sizes: dict[int, int] = {}
    for group in groups:
        sizes[group] = sizes.get(group, 0) + 1
    if len(sizes) < num_folds:
        raise InputError(f"folds={num_folds}: the data has {len(sizes)} different prompts; give fewer folds")
    fold_of: dict[int, int] = {}
    counts = [0] * num_folds
    order = np.random.Generator(np.random.PCG64(seed)).permutation(sorted(sizes)).tolist()
    for group in sorted(order, key=lambda group: -sizes[group]):
        smallest = counts.index(min(counts))
        fold_of[group] = smallest
        counts[smallest] += sizes[group]
    placed = [fold_of[group] for group in groups]
    return [
        ([i for i, fold in enumerate(placed) if fold != k], [i for i, fold in enumerate(placed) if fold == k])
        for k in range(num_folds)
    ]


def reliability_plot(reports: Mapping[str, PreferenceReport], path: Path) -> None:
    """Plot accuracy by confidence, with counts, and the margins, for each set of pairs."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(2, len(reports), figsize=(4 * len(reports), 6), squeeze=False, layout="constrained")
    for (name, report), (above, below) in zip(reports.items(), axes.T, strict=True):
        above.plot([0.5, 1], [0.5, 1], "--", color="grey", linewidth=1, label="calibrated")
        above.plot([b.confidence for b in report.bins], [b.accuracy for b in report.bins], "o-", label="measured")
        for each in report.bins:
            above.annotate(str(each.num_pairs), (each.confidence, each.accuracy), xytext=(3, -10),
                           textcoords="offset points", fontsize="x-small")  # fmt: skip
        above.set(title=f"{name}: accuracy {report.accuracy:.3f}, ECE {report.calibration_error:.3f}",
                  xlabel="confidence", ylabel="accuracy", xlim=(0.48, 1.02), ylim=(0, 1.05))  # fmt: skip
        above.legend(fontsize="small")
        below.hist(report.margins, bins=30)
        below.axvline(0, color="grey", linewidth=1)
        below.set(xlabel="score of chosen less score of rejected", ylabel="pairs")
    figure.savefig(path, dpi=120)
    pyplot.close(figure)

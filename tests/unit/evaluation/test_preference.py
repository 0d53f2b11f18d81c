"""What is said of a reward model, against formulas written out and code that looks at every pair of values."""

import itertools
import math
from pathlib import Path

import numpy as np
import pytest
from matplotlib import image

from rlhf.evaluation.preference import (
    agreement,
    folds,
    length_bias,
    preference_report,
    reliability,
    reliability_plot,
    share_won,
)
from rlhf.types import InputError, RunError


def report_of(margins, longer=None, **graded):
    """A report of pairs with these margins, on lengths that differ by `longer`."""
    margins = np.asarray(margins, dtype=float)
    longer = np.arange(len(margins)) if longer is None else np.asarray(longer)
    return preference_report(margins + 1, np.ones(len(margins)), 50 + longer, np.full(len(margins), 50),
                             np.arange(len(margins)), **graded)  # fmt: skip


def logit(probability: float) -> float:
    return math.log(probability / (1 - probability))


def naive_tau_b(x, y) -> float:
    """Kendall 1945: concordant less discordant over the geometric mean of pairs untied in x and in y."""
    pairs = list(itertools.combinations(range(len(x)), 2))
    signs = [(np.sign(x[i] - x[j]), np.sign(y[i] - y[j])) for i, j in pairs]
    untied = [sum(sign[side] != 0 for sign in signs) for side in (0, 1)]
    return sum(a * b for a, b in signs) / math.sqrt(untied[0] * untied[1])


def naive_rho(x, y) -> float:
    """Pearson's correlation of ranks, those of ties averaged."""

    def ranks(values):
        return [sum(v < value for v in values) + (sum(v == value for v in values) + 1) / 2 for value in values]

    a, b = (np.array(ranks(values)) for values in (x, y))
    a, b = a - a.mean(), b - b.mean()
    return (a @ b) / math.sqrt((a @ a) * (b @ b))


def test_ties_count_half():
    assert share_won(np.array([2.0, 0.0, -1.0, 0.5])) == 2.5 / 4
    report = report_of([2.0, 0.0, -1.0, 0.5], longer=[3, 0, 0, -2])
    assert report.accuracy == 2.5 / 4
    assert report.longer_wins == 2 / 4


def test_pairs_of_one_prompt_count_less_than_pairs_of_several():
    margins, ones = np.repeat([1.0, -1.0, 1.0, 1.0, 1.0], 20), np.ones(100)
    apart = preference_report(margins, 0 * ones, ones, ones, np.arange(100))
    together = preference_report(margins, 0 * ones, ones, ones, np.repeat(np.arange(5), 20))
    assert apart.accuracy == together.accuracy == 0.8
    # 80 of 100 (Agresti and Coull), and about 4 of 5.
    assert apart.accuracy_interval == pytest.approx((0.7104, 0.8675), abs=5e-4)
    low, high = together.accuracy_interval
    assert low < 0.4
    assert high > 0.95


@pytest.mark.parametrize("seed", range(3))
def test_rank_correlations_equal_naive_ones_on_values_with_ties(seed):
    generator = np.random.default_rng(seed)
    chosen, rejected, good, bad = generator.integers(0, 6, (4, 25)).astype(float)
    report = preference_report(chosen, rejected, good, bad, np.arange(25), graded_chosen=good, graded_rejected=bad)
    scores, grades = np.concatenate([chosen, rejected]), np.concatenate([good, bad])
    assert report.kendall_tau == pytest.approx(naive_tau_b(scores, grades), abs=1e-12)
    assert report.spearman_rho == pytest.approx(naive_rho(scores, grades), abs=1e-12)


def test_graded_qualities_in_the_order_of_the_scores_correlate_fully():
    margins = np.array([1.0, 2.0, 3.0])
    report = preference_report(
        margins,
        -margins,
        margins,
        margins,
        np.arange(3),
        graded_chosen=np.exp(margins),
        graded_rejected=-np.exp(margins),
    )
    assert (report.kendall_tau, report.spearman_rho) == pytest.approx((1.0, 1.0))


def test_figures_leave_out_what_is_not_known():
    assert "kendall_tau" not in report_of([1.0, -1.0, 2.0]).figures()
    graded = report_of([1.0, -1.0, 2.0], graded_chosen=np.array([3.0, 1.0, 4.0]), graded_rejected=np.zeros(3))
    assert graded.figures()["kendall_tau"] == graded.kendall_tau


def test_calibration_error_of_constructed_bins():
    # 4 pairs at confidence 0.62, 3 of them right; 6 at 0.93, all right: |0.62 - 0.75| and |0.93 - 1|.
    margins = [logit(0.62)] * 3 + [-logit(0.62)] + [logit(0.93)] * 6
    report = report_of(margins)
    assert [(b.num_pairs, b.accuracy) for b in report.bins] == [(4, 0.75), (6, 1.0)]
    assert [b.confidence for b in report.bins] == pytest.approx([0.62, 0.93])
    assert report.calibration_error == pytest.approx(0.4 * 0.13 + 0.6 * 0.07)


def test_a_calibrated_model_has_little_calibration_error_and_one_too_sure_much():
    generator = np.random.default_rng(0)
    margins = np.abs(generator.normal(0, 2, 20_000))
    right = generator.random(len(margins)) < 1 / (1 + np.exp(-margins))
    truth = np.where(right, margins, -margins)
    assert report_of(truth).calibration_error < 0.015
    assert report_of(5 * truth).calibration_error > 0.1
    assert report_of(truth).nll < min(report_of(5 * truth).nll, report_of(truth / 5).nll)


def test_every_pair_is_in_one_bin_of_its_confidence():
    margins = np.array([0.0, 1e-9, 800.0, -800.0, *np.linspace(-6, 6, 97)])
    bins = reliability(margins)
    assert sum(b.num_pairs for b in bins) == len(margins)
    assert all(0.5 <= b.confidence <= 1 for b in bins)
    assert [b.confidence for b in bins] == sorted(b.confidence for b in bins)
    assert len({min(int((b.confidence - 0.5) * 20), 9) for b in bins}) == len(bins) == 10


def test_negative_log_likelihood():
    margins = [0.3, -2.0, 1.5]
    assert report_of(margins).nll == pytest.approx(-np.mean([math.log(1 / (1 + math.exp(-m))) for m in margins]))
    assert report_of([-1000.0]).nll == 1000.0
    assert report_of([0.0]).nll == pytest.approx(math.log(2))


def test_length_bias_equals_the_normal_equations():
    generator = np.random.default_rng(0)
    longer = generator.integers(-40, 40, 60).astype(float)
    margins = 0.03 * longer + generator.normal(0.5, 1, 60)
    design = np.stack([np.ones(60), longer], 1)
    weights = np.linalg.solve(design.T @ design, design.T @ margins)
    residuals = margins - design @ weights
    covariance = np.linalg.inv(design.T @ design) * (residuals @ residuals) / (60 - 2)
    assert length_bias(margins, longer) == pytest.approx((weights[1], math.sqrt(covariance[1, 1])))


def test_lengths_that_never_differ_have_no_slope():
    assert all(math.isnan(value) for value in length_bias(np.array([1.0, 2.0, -1.0]), np.zeros(3)))


def test_scores_that_are_not_finite_are_refused():
    with pytest.raises(RunError, match=r"2 of 3 .* optimizer\.lr"):
        report_of([1.0, math.nan, math.inf])


def test_agreement_is_the_mean_over_pairs_of_models():
    generator = np.random.default_rng(0)
    margins = list(generator.integers(-3, 4, (4, 30)).astype(float))
    found = agreement(margins)
    pairs = list(itertools.combinations(margins, 2))
    same = [sum(x * y > 0 or x == y == 0 for x, y in zip(a, b, strict=True)) / 30 for a, b in pairs]
    assert found["agreement"] == pytest.approx(np.mean(same))
    assert found["margin_spearman"] == pytest.approx(np.mean([naive_rho(a, b) for a, b in pairs]))
    assert agreement([margins[0], 3 * margins[0]]) == pytest.approx({"agreement": 1.0, "margin_spearman": 1.0})


def test_every_pair_is_held_out_once_and_prompts_stay_together():
    generator = np.random.default_rng(0)
    groups = generator.integers(0, 40, 103).tolist()
    parts = folds(groups, 5, seed=3)
    assert sorted(i for _, held_out in parts for i in held_out) == list(range(103))
    for train, held_out in parts:
        assert sorted(train + held_out) == list(range(103))
        assert not {groups[i] for i in train} & {groups[i] for i in held_out}
        assert abs(len(held_out) - 103 / 5) <= max(groups.count(group) for group in groups)


def test_folds_of_single_pairs_differ_by_one_at_most_and_follow_the_seed():
    sizes = [len(held_out) for _, held_out in folds(range(23), 4, seed=0)]
    assert sorted(sizes) == [5, 6, 6, 6]
    assert folds(range(23), 4, seed=0) == folds(range(23), 4, seed=0) != folds(range(23), 4, seed=1)


def test_more_folds_than_prompts_are_refused():
    with pytest.raises(InputError, match="folds=4: the data has 3 different prompts"):
        folds([0, 0, 1, 2, 2], 4, seed=0)


def test_plot_shows_both_panels_of_every_set(tmp_path: Path):
    generator = np.random.default_rng(0)
    reports = {name: report_of(generator.normal(1, 2, 200)) for name in ("held_out", "elsewhere")}
    reliability_plot(reports, tmp_path / "plot.png")
    pixels = image.imread(tmp_path / "plot.png")[..., :3]
    height, width = pixels.shape[0] // 2, pixels.shape[1] // 2
    blue = np.linalg.norm(pixels - np.array([31, 119, 180]) / 255, axis=-1) < 0.05
    for panel in (blue[:height, :width], blue[:height, width:], blue[height:, :width], blue[height:, width:]):
        assert panel.sum() > 200

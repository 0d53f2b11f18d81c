"""The clipped loss against a loop over tokens in double precision, and whatever the split into micro-batches."""

import itertools
import math
from typing import Any

import pytest
import torch

from rlhf.algorithms.base import AlgorithmConfig, Normalisation, Objective
from rlhf.algorithms.clipped_loss import ClippedLoss
from rlhf.algorithms.correction import CorrectionConfig
from rlhf.ops.correction import CorrectionKind
from rlhf.ops.kl import KLEstimator
from rlhf.ops.microbatch import MicroBatch
from rlhf.ops.policy_loss import Ratio
from tests.oracles.policy_losses import gspo_loss, naive_loss, weights_of
from tests.unit.algorithms.layouts import COLUMNS, Sequences, lay_out, loss_and_gradient, make_sequences

LENGTHS = [5, 9, 2, 7, 4]
SPLITS = [[[0, 1, 2, 3, 4]], [[0], [1], [2], [3], [4]], [[3, 0], [4], [2, 1]]]
MAX_TOKENS = 11
CORRECTIONS = [
    {"kind": CorrectionKind.off},
    {"kind": CorrectionKind.token_truncate, "high": 1.2},
    {"kind": CorrectionKind.token_mask, "low": 0.8, "high": 1.3},
    {"kind": CorrectionKind.sequence_truncate, "high": 1.1},
    {"kind": CorrectionKind.sequence_mask, "low": 0.7, "high": 1.5},
    {"kind": CorrectionKind.geometric_mask, "low": 0.9, "high": 1.05},
]
OFF = CorrectionConfig(kind=CorrectionKind.off)
VARIANTS: dict[str, dict[str, Any]] = {
    "clip": {},
    "dual clip": {"dual_clip": 1.3, "clip_high": 0.1},
    "cispo": {"objective": Objective.cispo, "clip_low": 0.2, "clip_high": 0.1},
    "cispo without a lower clip": {"objective": Objective.cispo, "clip_low": 1.0},
    "gspo": {"ratio": Ratio.sequence, "clip_low": 0.05, "clip_high": 0.08},
    "entropy": {"entropy_coef": 0.3},
}


def config_of(**keys: Any) -> AlgorithmConfig:
    return AlgorithmConfig(**{"correction": OFF, **keys})


def loss_of(config: AlgorithmConfig) -> ClippedLoss:
    return ClippedLoss(config, config.kl_coef, max_tokens=MAX_TOKENS)


def sequences_for(config: AlgorithmConfig, seed: int) -> Sequences:
    """Sequences, of equal advantages within each where the ratio is the sequence's."""
    sequences = make_sequences(seed, LENGTHS)
    if config.ratio is Ratio.sequence:
        sequences.advantages = [
            [(-1.0) ** i * (i + 0.5) if on else 0.0 for on in mask] for i, mask in enumerate(sequences.mask)
        ]
    return sequences


def assert_equals_the_oracle(config: AlgorithmConfig, sequences: Sequences, columns: list[str]) -> None:
    expected, expected_gradients = naive_loss(config, sequences, set(columns), max_tokens=MAX_TOKENS)
    for packed in (True, False):
        loss, gradients, _ = loss_and_gradient(loss_of(config), sequences, SPLITS[2], columns, packed=packed)
        assert loss == pytest.approx(expected, rel=1e-5)
        assert_gradients(gradients, expected_gradients)


def assert_gradients(found: list[list[float]], expected: list[list[float]]) -> None:
    for one, other in zip(found, expected, strict=True):
        assert one == pytest.approx(other, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("normalisation", list(Normalisation))
@pytest.mark.parametrize("absent", [(), ("old_logprobs",), ("ref_logprobs",), ("old_logprobs", "ref_logprobs")])
@pytest.mark.parametrize("estimator", list(KLEstimator))
def test_loss_and_gradient_equal_a_loop_over_tokens(normalisation, absent, estimator):
    config = config_of(clip_high=0.3, kl_coef=0.15, kl_estimator=estimator, normalisation=normalisation)
    assert_equals_the_oracle(config, make_sequences(0, LENGTHS), [name for name in COLUMNS if name not in absent])


@pytest.mark.parametrize("variant", list(VARIANTS))
@pytest.mark.parametrize("correction", CORRECTIONS, ids=lambda correction: correction["kind"].value)
@pytest.mark.parametrize("normalisation", [Normalisation.tokens, Normalisation.sequences])
@pytest.mark.parametrize("absent", [(), ("old_logprobs",)])
def test_every_objective_with_every_correction_equals_a_loop(variant, correction, normalisation, absent):
    config = config_of(
        correction=CorrectionConfig(**correction), kl_coef=0.1, normalisation=normalisation, **VARIANTS[variant]
    )
    assert_equals_the_oracle(config, sequences_for(config, 8), [name for name in COLUMNS if name not in absent])


def test_gspo_has_the_gradient_of_the_sequence_s_ratio():
    config = config_of(normalisation=Normalisation.sequences, **VARIANTS["gspo"])
    sequences = sequences_for(config, 12)
    learnt = [[t for t, on in enumerate(mask) if on] for mask in sequences.mask]
    new, old = (
        [torch.tensor([rows[i][t] for t in places], dtype=torch.float64) for i, places in enumerate(learnt)]
        for rows in (sequences.logprobs, sequences.old_logprobs)
    )
    for leaf in new:
        leaf.requires_grad_()
    advantages = [sequences.advantages[i][places[0]] for i, places in enumerate(learnt)]
    expected = gspo_loss(new, old, advantages, clip_low=config.clip_low, clip_high=config.clip_high)
    expected.backward()
    loss, gradients, _ = loss_and_gradient(loss_of(config), sequences, SPLITS[2], COLUMNS, packed=True)
    assert loss == pytest.approx(expected.item(), rel=1e-5)
    found = [[gradients[i][t] for t in places] for i, places in enumerate(learnt)]
    assert_gradients(found, [leaf.grad.tolist() for leaf in new])


@pytest.mark.parametrize("variant", list(VARIANTS))
@pytest.mark.parametrize("correction", CORRECTIONS, ids=lambda correction: correction["kind"].value)
@pytest.mark.parametrize("normalisation", list(Normalisation))
def test_loss_gradient_and_metrics_do_not_depend_on_the_split(variant, correction, normalisation):
    """Splits are also those into ranks, whose losses over the common count add up to the whole."""
    config = config_of(
        kl_coef=0.2, normalisation=normalisation, correction=CorrectionConfig(**correction), **VARIANTS[variant]
    )
    loss, sequences = loss_of(config), sequences_for(config, 1)
    total, gradients, metrics = loss_and_gradient(loss, sequences, SPLITS[0], COLUMNS, packed=True)
    for splits, packed in itertools.product(SPLITS, (True, False)):
        other, other_gradients, other_metrics = loss_and_gradient(loss, sequences, splits, COLUMNS, packed=packed)
        assert other == pytest.approx(total, rel=1e-5, abs=1e-6)
        assert_gradients(other_gradients, gradients)
        assert other_metrics == pytest.approx(metrics, rel=1e-5)


@pytest.mark.parametrize("packed", [True, False])
def test_metrics_equal_a_loop_over_tokens(packed):
    config = config_of(clip_low=0.1, clip_high=0.1)
    sequences = make_sequences(2, LENGTHS)
    _, _, metrics = loss_and_gradient(loss_of(config), sequences, SPLITS[2], COLUMNS, packed=packed)
    expected = dict.fromkeys(("clip_fraction", "policy_kl", "entropy", "kl", "rollout_ratio_deviation"), 0.0)
    worst = 0.0
    for i, mask in enumerate(sequences.mask):
        for t in [t for t, learnt in enumerate(mask) if learnt]:
            new, old, advantage = sequences.logprobs[i][t], sequences.old_logprobs[i][t], sequences.advantages[i][t]
            ratio = math.exp(new - old)
            expected["clip_fraction"] += (ratio > 1.1 and advantage > 0) or (ratio < 0.9 and advantage < 0)
            expected["policy_kl"] += ratio - 1 - math.log(ratio)
            expected["entropy"] += new**2
            log_r = sequences.ref_logprobs[i][t] - new
            expected["kl"] += math.exp(log_r) - 1 - log_r
            deviation = abs(math.exp(old - sequences.rollout_logprobs[i][t]) - 1)
            expected["rollout_ratio_deviation"] += deviation
            worst = max(worst, deviation)
    expected["rollout_ratio_deviation_max"] = worst
    assert {name: metrics[name] for name in expected} == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("correction", CORRECTIONS, ids=lambda correction: correction["kind"].value)
def test_figures_of_the_correction_equal_a_loop(correction):
    config = config_of(correction=CorrectionConfig(**correction))
    sequences = make_sequences(0, LENGTHS)
    _, _, metrics = loss_and_gradient(loss_of(config), sequences, SPLITS[2], COLUMNS, packed=True)
    weights, counts = [], [0, 0]
    for i, mask in enumerate(sequences.mask):
        gaps = [sequences.old_logprobs[i][t] - sequences.rollout_logprobs[i][t] for t, on in enumerate(mask) if on]
        row, *found = weights_of(gaps, config.correction.kind, *config.correction.bounds)
        weights += row
        counts = [one + other for one, other in zip(counts, found, strict=True)]
    assert metrics["correction_ess"] == pytest.approx(sum(weights) ** 2 / (len(weights) * sum(w**2 for w in weights)))
    assert metrics["correction_truncated"] == pytest.approx(counts[0] / len(weights))
    assert metrics["correction_masked"] == pytest.approx(counts[1] / len(weights))
    assert sum(counts) > 0 or config.correction.kind is CorrectionKind.off


def test_the_engine_s_gauges_leave_stale_tokens_out():
    """Tokens of the current weights alone show what engine and learner disagree on, apart from staleness."""
    sequences = make_sequences(10, LENGTHS)
    batch, outputs, _ = lay_out(sequences, range(5), COLUMNS, packed=True)
    batch.staleness = (batch.row_ids % 2).float() * 3
    _, metrics = loss_of(config_of())(outputs, batch)
    fresh = batch.loss_mask & (batch.row_ids % 2 == 0)
    gap = (batch.old_logprobs - batch.rollout_logprobs)[fresh]
    figures = metrics["engine"].figures(metrics["engine"].values.tolist())
    assert figures["kl_k1"] == pytest.approx(-gap.mean().item(), rel=1e-5)
    assert metrics["engine_gap_max"].item() == gap.abs().max().item()
    assert metrics["staleness"].item() == 3 * (batch.loss_mask & ~fresh).sum().item()
    batch.staleness = torch.ones_like(batch.staleness)
    _, metrics = loss_of(config_of())(outputs, batch)
    assert metrics["engine"].figures(metrics["engine"].values.tolist()) == {}
    assert metrics["engine_gap_max"].item() == -math.inf


def test_the_reference_is_measured_without_being_in_the_loss():
    sequences = make_sequences(3, LENGTHS)
    loss = loss_of(config_of(kl_coef=0.0))
    with_it, _, metrics = loss_and_gradient(loss, sequences, SPLITS[0], COLUMNS, packed=True)
    columns = [name for name in COLUMNS if name != "ref_logprobs"]
    without_it, _, other_metrics = loss_and_gradient(loss, sequences, SPLITS[0], columns, packed=True)
    assert with_it == without_it
    assert metrics["kl"] > 0
    assert "kl" not in other_metrics


def test_count():
    rows = make_sequences(4, LENGTHS).rows
    counts = {each: loss_of(config_of(normalisation=each)).count(rows) for each in Normalisation}
    assert counts == {
        Normalisation.tokens: sum(row.num_loss_tokens for row in rows),
        Normalisation.sequences: 5,
        Normalisation.sequence_sums: 5,
        Normalisation.constant: 5 * MAX_TOKENS,
    }


@pytest.mark.parametrize("normalisation", list(Normalisation))
def test_the_empty_batch_adds_nothing(normalisation):
    """A rank with fewer packs takes part with zero loss, zero gradient and neutral metrics."""
    sequences = make_sequences(5, [2])
    _, outputs, leaves = lay_out(sequences, [0], [], packed=True)
    config = config_of(kl_coef=1.0, entropy_coef=0.1, normalisation=normalisation)
    loss_sum, metrics = loss_of(config)(outputs, MicroBatch.empty())
    loss_sum.backward()
    assert loss_sum.item() == 0.0
    assert leaves[0].grad.tolist() == [0.0, 0.0]
    for name in ("rollout", "engine", "correction"):
        sums = metrics.pop(name)
        assert not sums.values.any()
        assert sums.figures(sums.values.tolist()) == {}
    for name in ("rollout_gap_max", "engine_gap_max"):
        assert metrics.pop(name).item() == -math.inf
    assert set(metrics) == {
        "clip_fraction", "policy_kl", "entropy", "kl", "rollout_ratio_deviation", "rollout_ratio_deviation_max",
        "staleness",
    }  # fmt: skip
    assert all(metrics.pop(name).values.shape == (0,) for name in ("entropy", "kl"))
    assert all(value.item() == 0.0 for value in metrics.values())


def test_a_sequence_without_loss_tokens_adds_nothing_and_divides_by_nothing():
    sequences = make_sequences(6, [3, 4])
    sequences.mask[1] = [False] * 4
    loss = loss_of(config_of(normalisation=Normalisation.sequences, ratio=Ratio.sequence))
    _, gradients, _ = loss_and_gradient(loss, sequences, [[0, 1]], COLUMNS, packed=False)
    assert gradients[1] == [0.0] * 4


@pytest.mark.parametrize("correction", CORRECTIONS, ids=lambda correction: correction["kind"].value)
def test_values_outside_the_mask_do_not_matter(correction):
    sequences = make_sequences(7, LENGTHS)
    config = config_of(
        kl_coef=0.1, normalisation=Normalisation.sequences, ratio=Ratio.sequence,
        correction=CorrectionConfig(**correction),
    )  # fmt: skip
    batch, outputs, _ = lay_out(sequences, range(5), COLUMNS, packed=False)
    expected, _ = loss_of(config)(outputs, batch)
    for name in COLUMNS:
        batch.column(name)[~batch.loss_mask] = torch.nan
    found, metrics = loss_of(config)(outputs, batch)
    assert found.item() == expected.item()
    for value in metrics.values():
        numbers = value if isinstance(value, torch.Tensor) else value.values
        assert torch.isfinite(numbers).all()

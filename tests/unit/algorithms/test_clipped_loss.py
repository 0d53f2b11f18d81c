"""The clipped loss against a loop over tokens, and whatever the split into micro-batches."""

import itertools
import math

import pytest
import torch

from rlhf.algorithms.base import AlgorithmConfig, Normalisation
from rlhf.algorithms.clipped_loss import ClippedLoss
from rlhf.ops.kl import KLEstimator
from rlhf.ops.microbatch import MicroBatch
from tests.unit.algorithms.layouts import COLUMNS, Sequences, lay_out, loss_and_gradient, make_sequences

LENGTHS = [5, 9, 2, 7, 4]
SPLITS = [[[0, 1, 2, 3, 4]], [[0], [1], [2], [3], [4]], [[3, 0], [4], [2, 1]]]


def naive(config: AlgorithmConfig, sequences: Sequences, columns: set[str]) -> tuple[float, list[list[float]]]:
    """Loss and its gradient with respect to each token's logprob, one token at a time."""
    loss, gradients = 0.0, []
    per_sequence = config.normalisation is Normalisation.sequences
    num_tokens = sum(sum(mask) for mask in sequences.mask)
    for i, mask in enumerate(sequences.mask):
        divisor = sum(mask) * len(sequences.mask) if per_sequence else num_tokens
        gradient = [0.0] * len(mask)
        for t in [t for t, learnt in enumerate(mask) if learnt]:
            logprob, advantage = sequences.logprobs[i][t], sequences.advantages[i][t]
            old = sequences.old_logprobs[i][t] if "old_logprobs" in columns else logprob
            ratio = math.exp(logprob - old)
            clipped = min(max(ratio, 1 - config.clip_low), 1 + config.clip_high)
            token, slope = -min(ratio * advantage, clipped * advantage), 0.0
            if ratio * advantage <= clipped * advantage:
                slope = -ratio * advantage
            if "ref_logprobs" in columns and config.kl_coef:
                log_r = sequences.ref_logprobs[i][t] - logprob
                value, derivative = {
                    KLEstimator.k1: (-log_r, 1.0),
                    KLEstimator.k2: (log_r**2 / 2, -log_r),
                    KLEstimator.k3: (math.exp(log_r) - 1 - log_r, 1 - math.exp(log_r)),
                }[config.kl_estimator]
                token += config.kl_coef * value
                slope += config.kl_coef * derivative
            loss += token / divisor
            gradient[t] = slope / divisor
        gradients.append(gradient)
    return loss, gradients


def assert_gradients(found: list[list[float]], expected: list[list[float]]) -> None:
    for one, other in zip(found, expected, strict=True):
        assert one == pytest.approx(other, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("normalisation", list(Normalisation))
@pytest.mark.parametrize("absent", [(), ("old_logprobs",), ("ref_logprobs",), ("old_logprobs", "ref_logprobs")])
@pytest.mark.parametrize("estimator", list(KLEstimator))
def test_loss_and_gradient_equal_a_loop_over_tokens(normalisation, absent, estimator):
    config = AlgorithmConfig(
        clip_low=0.2, clip_high=0.3, kl_coef=0.15, kl_estimator=estimator, normalisation=normalisation
    )
    sequences = make_sequences(0, LENGTHS)
    columns = [name for name in COLUMNS if name not in absent]
    expected, expected_gradients = naive(config, sequences, set(columns))
    loss, gradients, _ = loss_and_gradient(
        ClippedLoss(config, config.kl_coef), sequences, SPLITS[0], columns, packed=True
    )
    assert loss == pytest.approx(expected, rel=1e-5)
    assert_gradients(gradients, expected_gradients)


@pytest.mark.parametrize("normalisation", list(Normalisation))
def test_loss_gradient_and_metrics_do_not_depend_on_the_split(normalisation):
    loss = ClippedLoss(AlgorithmConfig(kl_coef=0.2, normalisation=normalisation), 0.2)
    sequences = make_sequences(1, LENGTHS)
    total, gradients, metrics = loss_and_gradient(loss, sequences, SPLITS[0], COLUMNS, packed=True)
    for splits, packed in itertools.product(SPLITS, (True, False)):
        other, other_gradients, other_metrics = loss_and_gradient(loss, sequences, splits, COLUMNS, packed=packed)
        assert other == pytest.approx(total, rel=1e-5)
        assert_gradients(other_gradients, gradients)
        assert other_metrics == pytest.approx(metrics, rel=1e-5)


@pytest.mark.parametrize("packed", [True, False])
def test_metrics_equal_a_loop_over_tokens(packed):
    config = AlgorithmConfig(clip_low=0.1, clip_high=0.1)
    sequences = make_sequences(2, LENGTHS)
    _, _, metrics = loss_and_gradient(ClippedLoss(config, config.kl_coef), sequences, SPLITS[2], COLUMNS, packed=packed)
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
    assert metrics == pytest.approx({**expected, "rollout_ratio_deviation_max": worst}, rel=1e-4)


def test_the_reference_is_measured_without_being_in_the_loss():
    sequences = make_sequences(3, LENGTHS)
    loss = ClippedLoss(AlgorithmConfig(kl_coef=0.0), 0.0)
    with_it, _, metrics = loss_and_gradient(loss, sequences, SPLITS[0], COLUMNS, packed=True)
    columns = [name for name in COLUMNS if name != "ref_logprobs"]
    without_it, _, other_metrics = loss_and_gradient(loss, sequences, SPLITS[0], columns, packed=True)
    assert with_it == without_it
    assert metrics["kl"] > 0
    assert "kl" not in other_metrics


def test_count():
    rows = make_sequences(4, LENGTHS).rows
    assert ClippedLoss(AlgorithmConfig(), 0.0).count(rows) == sum(row.num_loss_tokens for row in rows)
    assert ClippedLoss(AlgorithmConfig(normalisation=Normalisation.sequences), 0.0).count(rows) == 5


@pytest.mark.parametrize("normalisation", list(Normalisation))
def test_the_empty_batch_adds_nothing(normalisation):
    """A rank with fewer packs takes part with zero loss, zero gradient and neutral metrics."""
    sequences = make_sequences(5, [2])
    _, outputs, leaves = lay_out(sequences, [0], [], packed=True)
    loss_sum, metrics = ClippedLoss(AlgorithmConfig(kl_coef=1.0, normalisation=normalisation), 1.0)(
        outputs, MicroBatch.empty()
    )
    loss_sum.backward()
    assert loss_sum.item() == 0.0
    assert leaves[0].grad.tolist() == [0.0, 0.0]
    assert set(metrics) == {
        "clip_fraction", "policy_kl", "entropy", "kl", "rollout_ratio_deviation", "rollout_ratio_deviation_max"
    }  # fmt: skip
    assert all(value.item() == 0.0 for value in metrics.values())


def test_a_sequence_without_loss_tokens_adds_nothing_and_divides_by_nothing():
    sequences = make_sequences(6, [3, 4])
    sequences.mask[1] = [False] * 4
    loss = ClippedLoss(AlgorithmConfig(normalisation=Normalisation.sequences), 0.0)
    _, gradients, _ = loss_and_gradient(loss, sequences, [[0, 1]], COLUMNS, packed=False)
    assert gradients[1] == [0.0] * 4


def test_values_outside_the_mask_do_not_matter():
    sequences = make_sequences(7, LENGTHS)
    config = AlgorithmConfig(kl_coef=0.1, normalisation=Normalisation.sequences)
    batch, outputs, _ = lay_out(sequences, range(5), COLUMNS, packed=False)
    expected, _ = ClippedLoss(config, config.kl_coef)(outputs, batch)
    for name in COLUMNS:
        batch.column(name)[~batch.loss_mask] = torch.nan
    outputs.entropy[~batch.loss_mask] = torch.nan
    found, metrics = ClippedLoss(config, config.kl_coef)(outputs, batch)
    assert found.item() == expected.item()
    assert all(math.isfinite(value.item()) for value in metrics.values())

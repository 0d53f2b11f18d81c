"""The learner over a fake backend: its gradient is the full batch's, however the batch is cut and shared out."""

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from rlhf.algorithms.base import AlgorithmConfig, Normalisation
from rlhf.algorithms.clipped_loss import ClippedLoss
from rlhf.algorithms.correction import CorrectionConfig
from rlhf.algorithms.grpo import GRPOConfig
from rlhf.algorithms.sft import SFTLoss
from rlhf.ops.correction import CorrectionKind
from rlhf.train.batching import Packing, RowGroup, deal
from rlhf.train.learner import Learner
from rlhf.train.offline import as_group
from rlhf.train.stats import merge
from rlhf.types import Batch, Reference, Row, Sampling
from tests.unit.train.fakes import READOUT, FakeBackend, TinyModel, rollout_groups, row_logprobs, supervised_rows

GRPO = GRPOConfig().build(Sampling(temperature=0.8, max_tokens=8))
SHARDINGS = [(1, True, 1000), (1, False, 40), (2, True, 40), (2, False, 60), (3, True, 25)]


def deal_groups(groups: Sequence[RowGroup], num_ranks: int, packed: bool, max_tokens: int, **keys: int) -> Batch:
    packing = Packing(max_tokens=max_tokens, packed=packed, num_ranks=num_ranks)
    return deal(groups, **{"step": 0, "num_minibatches": 1, "num_epochs": 1, "seed": 0, **keys}, packing=packing)


def make_learners(num_ranks: int, packed: bool) -> list[Learner]:
    return [Learner(FakeBackend(rank, num_ranks), READOUT, packed) for rank in range(num_ranks)]


def rows_of(batch: Batch) -> list[tuple[Row, object]]:
    """Rows with what they refer to, in the order of the packs."""
    return [(row, part.groups[row.group][row.index]) for part in batch.minibatches for row in part.rows]


def full_batch_gradient(loss: Tensor, model: TinyModel) -> Tensor:
    model.zero_grad()
    loss.backward()
    return model.gradient


@pytest.mark.parametrize(("num_ranks", "packed", "max_tokens"), SHARDINGS)
def test_supervised_gradient_is_that_of_the_whole_batch(num_ranks, packed, max_tokens):
    rows = supervised_rows(0, 11)
    model = TinyModel()
    learnt = [
        logprob
        for row in rows
        for logprob, on in zip(row_logprobs(model, row.token_ids, 0.8), row.loss_mask[1:], strict=True)
        if on
    ]
    expected = -sum(learnt) / len(learnt)
    batch = deal_groups([as_group((row,)) for row in rows], num_ranks, packed, max_tokens)
    learners = make_learners(num_ranks, packed)
    stats = merge([learner.update(learner.shard(batch, SFTLoss()), SFTLoss(), 0.1) for learner in learners])
    gradient = sum(learner.backend.gradients[0] for learner in learners)
    torch.testing.assert_close(gradient, full_batch_gradient(expected, model), atol=1e-6, rtol=1e-5)
    assert stats.values()["loss"] == pytest.approx(expected.item(), rel=1e-5)
    counts = [len(learner.backend.forwards) for learner in learners]
    assert len(set(counts)) == 1
    for learner in learners:
        assert learner.backend.lasts == [False] * (counts[0] - 1) + [True]


@pytest.mark.parametrize(("num_ranks", "packed", "max_tokens"), SHARDINGS)
@pytest.mark.parametrize("normalisation", list(Normalisation))
def test_policy_gradient_is_that_of_the_whole_batch(num_ranks, packed, max_tokens, normalisation):
    """Columns, credit and update, with both logprob columns: nothing lands on another row's tokens."""
    batch = deal_groups(rollout_groups(1, [4, 2, 3]), num_ranks, packed, max_tokens)
    learners = make_learners(num_ranks, packed)
    reference, model = TinyModel(seed=1), TinyModel()
    references = [Learner(FakeBackend(rank, num_ranks, reference), READOUT, packed) for rank in range(num_ranks)]
    old = batch.in_pack_order([learner.compute_columns(learner.shard(batch)) for learner in learners])
    ref = batch.in_pack_order([learner.compute_columns(learner.shard(batch)) for learner in references])
    batch = batch.with_columns([{"old_logprobs": old}, {"ref_logprobs": ref}])
    credited = [learner.assign_credit(learner.shard(batch), GRPO) for learner in learners]
    batch = batch.with_columns(
        [{"advantages": batch.in_pack_order([columns["advantages"] for columns, _ in credited])}]
    )
    config = AlgorithmConfig(kl_coef=0.3, normalisation=normalisation)
    loss = ClippedLoss(config, config.kl_coef, max_tokens=8)
    stats = merge([learner.update(learner.shard(batch, loss), loss, 0.1) for learner in learners])

    total, rows = 0.0, rows_of(batch)
    num_tokens = sum(row.num_loss_tokens for row, _ in rows)
    for row, rollout in rows:
        divisor = {
            Normalisation.tokens: num_tokens,
            Normalisation.sequences: row.num_loss_tokens * len(rows),
            Normalisation.sequence_sums: len(rows),
            Normalisation.constant: 8 * len(rows),
        }[normalisation]
        logprobs = row_logprobs(model, rollout.token_ids, 0.8)
        ref_logprobs = row_logprobs(reference, rollout.token_ids, 0.8)
        for t in range(1, row.num_tokens):
            if rollout.loss_mask[t]:
                # At the first update the ratio to the old policy is 1.
                ratio = (logprobs[t - 1] - logprobs[t - 1].detach()).exp()
                log_r = ref_logprobs[t - 1].detach() - logprobs[t - 1]
                total = total + (-ratio * row.signal + 0.3 * (log_r.exp() - 1 - log_r)) / divisor
    gradient = sum(learner.backend.gradients[0] for learner in learners)
    torch.testing.assert_close(gradient, full_batch_gradient(total, model), atol=1e-6, rtol=1e-4)
    assert stats.values()["loss"] == pytest.approx(total.item(), rel=1e-4)
    magnitude = sum(abs(row.signal) * row.num_loss_tokens for row, _ in rows) / num_tokens
    assert merge([share for _, share in credited]).values() == pytest.approx({"advantage_magnitude": magnitude})


@pytest.mark.parametrize(("num_ranks", "packed", "max_tokens"), SHARDINGS)
def test_gauges_of_the_mismatch_are_those_of_the_whole_batch(num_ranks, packed, max_tokens):
    """Ratios, a percentile and a correlation from merged sums; staleness is the step less each token's version."""
    groups = rollout_groups(6, [4, 3, 5])
    for number, rollout in enumerate(rollout for group in groups for rollout in group.rows):
        rollout.versions = np.where(rollout.loss_mask, number % 3 + 2, -1).astype(np.int32)
    batch = deal_groups(groups, num_ranks, packed, max_tokens, step=4)
    learners = make_learners(num_ranks, packed)
    columns = [learner.assign_credit(learner.shard(batch), GRPO)[0] for learner in learners]
    batch = batch.with_columns([{"advantages": batch.in_pack_order([each["advantages"] for each in columns])}])
    config = AlgorithmConfig(correction=CorrectionConfig(kind=CorrectionKind.token_truncate, high=1.5))
    loss, model = ClippedLoss(config, 0.0, max_tokens=8), TinyModel()
    values = merge([learner.update(learner.shard(batch, loss), loss, 0.1) for learner in learners]).values()

    gaps, stale, pairs = [], [], []
    for row, rollout in rows_of(batch):
        logprobs = [0.0, *(value.item() for value in row_logprobs(model, rollout.token_ids, 0.8))]
        for t in range(row.num_tokens):
            if rollout.loss_mask[t]:
                gaps.append(logprobs[t] - rollout.logprobs[t])
                stale.append(4 - rollout.versions[t])
                pairs.append((logprobs[t], rollout.logprobs[t]))
    gap, staleness = np.array(gaps), np.array(stale)
    weights = np.minimum(np.exp(gap), 1.5)
    fresh = gap[staleness == 0]
    assert set(stale) == {0, 1, 2}
    expected = {
        "staleness": staleness.mean(),
        "rollout_kl_k1": -gap.mean(),
        "rollout_kl_k3": (np.exp(gap) - 1 - gap).mean(),
        "rollout_gap_max": np.abs(gap).max(),
        "rollout_ess": np.exp(gap).sum() ** 2 / (len(gap) * np.exp(2 * gap).sum()),
        "rollout_correlation": np.corrcoef(np.array(pairs).T)[0, 1],
        "engine_kl_k1": -fresh.mean(),
        "engine_gap_max": np.abs(fresh).max(),
        "correction_ess": weights.sum() ** 2 / (len(gap) * np.square(weights).sum()),
        "correction_truncated": (np.exp(gap) > 1.5).mean(),
        "correction_masked": 0.0,
    }
    assert {name: values[name] for name in expected} == pytest.approx(expected, rel=1e-4, abs=1e-6)
    exact = np.quantile(np.abs(gap), 0.99, method="inverted_cdf")
    assert exact * 0.999 <= values["rollout_gap_p99"] <= exact * 1.123


@pytest.mark.parametrize(("num_ranks", "packed", "max_tokens"), SHARDINGS)
def test_scores_come_back_in_the_order_of_the_packs(num_ranks, packed, max_tokens):
    batch = deal_groups(rollout_groups(2, [3, 4, 2, 5]), num_ranks, packed, max_tokens, num_minibatches=3)
    learners = make_learners(num_ranks, packed)
    columns = batch.in_pack_order([learner.compute_columns(learner.shard(batch)) for learner in learners])
    packs = [(part, pack) for part in batch.minibatches for pack in part.packs]
    assert len(columns) == len(packs)
    model = TinyModel()
    for column, (part, pack) in zip(columns, packs, strict=True):
        expected = []
        for row in pack.rows:
            rollout = part.groups[row.group][row.index]
            logprobs = [0.0, *(value.item() for value in row_logprobs(model, rollout.token_ids, 0.8))]
            expected += [value if on else 0.0 for value, on in zip(logprobs, rollout.loss_mask, strict=True)]
        assert column.dtype == np.float32
        assert column.tolist() == pytest.approx(expected, abs=1e-5)


def test_a_rank_without_packs_takes_part_all_the_same():
    groups = [RowGroup(rows=Reference(rollout_groups(3, [1])[0].rows), scalars=rollout_groups(3, [1])[0].scalars)]
    batch = deal_groups(groups, 2, True, 40).with_columns([{"advantages": [np.ones(groups[0].scalars[0].num_tokens)]}])
    first, second = make_learners(2, packed=True)
    assert [len(each.compute_columns(each.shard(batch))) for each in (first, second)] == [1, 0]
    assert len(second.backend.forwards) == 1
    columns, stats = second.assign_credit(second.shard(batch), GRPO)
    assert (columns, stats.values()) == ({"advantages": []}, {})
    loss = ClippedLoss(AlgorithmConfig(), 0.0, max_tokens=8)
    share = second.update(second.shard(batch, loss), loss, 0.1)
    assert second.backend.lasts == [True]
    assert (second.backend.gradients[0] == 0).all()
    assert share.sums["loss"] == (0.0, 0.5)
    whole = merge([share, first.update(first.shard(batch, loss), loss, 0.1)])
    assert whole.values()["loss"] == pytest.approx(-1.0)  # ratio 1, advantage 1


def test_one_optimiser_step_per_minibatch_and_epoch_in_the_batch_s_order():
    groups = rollout_groups(4, [2, 2, 2, 2])
    batch = deal_groups(groups, 1, True, 1000, num_minibatches=2, num_epochs=3)
    (learner,) = make_learners(1, packed=True)
    columns, _ = learner.assign_credit(learner.shard(batch), GRPO)
    batch = batch.with_columns([columns])
    loss = ClippedLoss(AlgorithmConfig(), 0.0, max_tokens=8)
    learner.update(learner.shard(batch, loss), loss, 0.25)
    assert learner.backend.learning_rates == [0.25] * 6
    seen = [micro.signals.tolist() for micro in learner.backend.forwards]
    by_minibatch = [[pytest.approx(row.signal) for row in part.rows] for part in batch.minibatches]
    assert seen == [by_minibatch[i] for i in batch.order]


def test_a_skipped_update_is_counted_and_has_no_norm():
    batch = deal_groups([as_group((row,)) for row in supervised_rows(5, 6)], 1, True, 1000, num_minibatches=2)
    (learner,) = make_learners(1, packed=True)
    learner.backend.skipped = {0}
    values = learner.update(learner.shard(batch, SFTLoss()), SFTLoss(), 0.1).values()
    assert values["skipped_updates"] == 0.5
    assert values["gradient_norm"] == pytest.approx(float(learner.backend.gradients[1].norm()))
    learner.backend.skipped = {2, 3}
    assert "gradient_norm" not in learner.update(learner.shard(batch, SFTLoss()), SFTLoss(), 0.1).values()


@pytest.mark.parametrize("packed", [True, False])
def test_probe_is_the_model_s_own_distribution(packed):
    (learner,) = make_learners(1, packed)
    token_ids = [3, 5, 5, 1, 12]
    expected = [0.0, *(value.item() for value in row_logprobs(TinyModel(), token_ids, 1.0))]
    assert learner.probe(token_ids).tolist() == pytest.approx(expected, abs=1e-6)


def test_metrics_are_means_over_the_minibatch_s_tokens():
    rows = supervised_rows(6, 9)
    batch = deal_groups([as_group((row,)) for row in rows], 2, True, 30)
    learners = make_learners(2, packed=True)
    values = merge([each.update(each.shard(batch, SFTLoss()), SFTLoss(), 0.0) for each in learners]).values()
    model, entropies = TinyModel(), []
    for row in rows:
        for t in range(1, row.num_tokens):
            logits = ((model.tokens[int(row.token_ids[t - 1])] + model.positions[t - 1]) / 0.8).tolist()
            total = sum(math.exp(logit) for logit in logits)
            if row.loss_mask[t]:
                entropies.append(-sum(math.exp(x) / total * (x - math.log(total)) for x in logits))
    assert values["entropy"] == pytest.approx(sum(entropies) / len(entropies), rel=1e-5)


@pytest.mark.parametrize(("num_ranks", "packed", "max_tokens"), SHARDINGS)
def test_kl_and_entropy_are_reported_for_each_prompt_set(num_ranks, packed, max_tokens):
    """Sums over tokens by set, which equal a loop over rows, whatever the packs and ranks."""
    sets = ["math", "code", "math", "chat"]
    groups = [
        replace(group, scalars=tuple(replace(row, data_set=name) for row in group.scalars))
        for group, name in zip(rollout_groups(7, [3, 4, 2, 1]), sets, strict=True)
    ]
    batch = deal_groups(groups, num_ranks, packed, max_tokens, num_minibatches=2)
    learners, reference, model = make_learners(num_ranks, packed), TinyModel(seed=1), TinyModel()
    references = [Learner(FakeBackend(rank, num_ranks, reference), READOUT, packed) for rank in range(num_ranks)]
    ref = batch.in_pack_order([learner.compute_columns(learner.shard(batch)) for learner in references])
    zeros = [np.zeros_like(column) for column in ref]
    batch = batch.with_columns([{"ref_logprobs": ref, "advantages": zeros}])
    loss = ClippedLoss(AlgorithmConfig(measure_kl=True), 0.0, max_tokens=8)
    values = merge([learner.update(learner.shard(batch, loss), loss, 0.0) for learner in learners]).values()

    kls: dict[str, list[float]] = {}
    for row, rollout in rows_of(batch):
        logprobs, refs = (row_logprobs(each, rollout.token_ids, 0.8) for each in (model, reference))
        log_r = [(refs[t - 1] - logprobs[t - 1]).item() for t in range(row.num_tokens) if rollout.loss_mask[t]]
        kls.setdefault(row.data_set, []).extend(math.exp(each) - 1 - each for each in log_r)
    assert kls.keys() == {"math", "code", "chat"}
    for name, each in kls.items():
        assert values[f"{name}/kl"] == pytest.approx(sum(each) / len(each), rel=1e-4)
    num_tokens = {name: len(each) for name, each in kls.items()}
    for figure in ("kl", "entropy"):
        together = sum(values[f"{name}/{figure}"] * number for name, number in num_tokens.items())
        assert values[figure] == pytest.approx(together / sum(num_tokens.values()), rel=1e-6)
    assert "/" not in "".join(name for name in values if not name.endswith(("/kl", "/entropy")))


def test_one_prompt_set_has_no_metrics_of_its_own():
    batch = deal_groups(rollout_groups(8, [3, 2]), 1, True, 100)
    (learner,) = make_learners(1, True)
    columns = [np.zeros(sum(row.num_tokens for row in pack.rows), np.float32) for pack in batch.minibatches[0].packs]
    batch = batch.with_columns([{"advantages": columns}])
    loss = ClippedLoss(AlgorithmConfig(), 0.0, max_tokens=8)
    values = learner.update(learner.shard(batch, loss), loss, 0.0).values()
    assert values["entropy"] > 0
    assert "kl" not in values, "there is no reference"
    assert not any("/" in name for name in values)

"""On-policy distillation against loops in double precision, and its expected gradient against the exact reverse KL."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from rlhf.algorithms.base import AlgorithmConfig, Normalisation, TokenOutputs, TokenStatistics
from rlhf.algorithms.correction import CorrectionConfig
from rlhf.algorithms.distill import OnPolicyDistillation, OnPolicyDistillationConfig
from rlhf.ops.correction import CorrectionKind
from rlhf.ops.microbatch import MicroBatch
from rlhf.train.batching import Packing, deal
from rlhf.train.learner import Learner
from rlhf.train.stats import merge
from rlhf.types import Failure, InputError, Row, Sampling, Score
from tests.oracles.policy_losses import naive_loss
from tests.unit.algorithms.layouts import Sequences, loss_and_gradient, make_sequences
from tests.unit.train.fakes import READOUT, FakeBackend, TinyModel, make_group, make_info, rollout_groups, row_logprobs

LENGTHS = [5, 9, 2, 7, 4]
SPLITS = [[3, 0], [4], [2, 1]]
SAMPLING = Sampling(temperature=0.8, max_tokens=11)
OFF = CorrectionConfig(kind=CorrectionKind.off)
TRUNCATE = CorrectionConfig(kind=CorrectionKind.token_truncate, high=1.2)
COLUMNS = ["rollout_logprobs", "old_logprobs", "teacher_logprobs"]


def distillation(**keys: Any) -> OnPolicyDistillation:
    return OnPolicyDistillationConfig(**{"correction": OFF, **keys}).build(SAMPLING)


def naive_advantages(log_ratios: Sequence[float], gamma: float, signal: float) -> list[float]:
    """The advantages of a row's loss tokens from log teacher - log student."""
    return [
        signal + sum(gamma ** (j - i) * log_ratios[j] for j in range(i, len(log_ratios)))
        for i in range(len(log_ratios))
    ]


class Credited:
    """The loss of a method's own credit."""

    def __init__(self, algorithm: OnPolicyDistillation) -> None:
        self.algorithm = algorithm

    def count(self, rows: Sequence[Row]) -> float:
        return self.algorithm.loss.count(rows)

    def __call__(self, outputs: TokenOutputs, batch: MicroBatch) -> Any:
        return self.algorithm.loss(outputs, self.algorithm.assign_credit(batch))


def with_naive_advantages(sequences: Sequences, gamma: float) -> Sequences:
    rows = []
    for i, mask in enumerate(sequences.mask):
        learnt = [t for t, on in enumerate(mask) if on]
        log_ratios = [sequences.teacher_logprobs[i][t] - sequences.old_logprobs[i][t] for t in learnt]
        values = dict(zip(learnt, naive_advantages(log_ratios, gamma, sequences.scores[i]), strict=True))
        rows.append([values.get(t, 0.0) for t in range(len(mask))])
    return replace(sequences, advantages=rows)


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("gamma", [0.0, 0.7, 1.0])
@pytest.mark.parametrize(
    "keys",
    [{}, {"correction": TRUNCATE, "clip_high": 0.1}, {"normalisation": Normalisation.sequences}],
    ids=["clip", "correction", "sequences"],
)
def test_loss_and_gradient_equal_a_loop_over_tokens(keys, gamma, packed):
    algorithm, sequences = distillation(gamma=gamma, **keys), make_sequences(5, LENGTHS)
    loss, gradients, metrics = loss_and_gradient(Credited(algorithm), sequences, SPLITS, COLUMNS, packed=packed)
    expected, expected_gradients = naive_loss(
        algorithm.config, with_naive_advantages(sequences, gamma), {*COLUMNS, "advantages"}, max_tokens=11
    )
    assert loss == pytest.approx(expected, rel=1e-5)
    for one, other in zip(gradients, expected_gradients, strict=True):
        assert one == pytest.approx(other, rel=1e-4, abs=1e-6)
    gaps = [
        sequences.logprobs[i][t] - sequences.teacher_logprobs[i][t]
        for i, mask in enumerate(sequences.mask)
        for t, on in enumerate(mask)
        if on
    ]
    assert metrics["teacher_kl_k1"] == pytest.approx(sum(gaps), rel=1e-4)
    assert metrics["teacher_kl_k3"] == pytest.approx(sum(math.exp(-gap) - 1 + gap for gap in gaps), rel=1e-4)


@pytest.mark.parametrize(
    ("num_ranks", "packed", "max_tokens"), [(1, True, 1000), (1, False, 40), (2, True, 40), (2, False, 60)]
)
@pytest.mark.parametrize("gamma", [0.0, 1.0])
def test_the_gradient_on_ranks_is_that_of_the_whole_batch(gamma, num_ranks, packed, max_tokens):
    """Columns of student and teacher, credit and update: nothing lands on another row's tokens."""
    algorithm, student, teacher = distillation(gamma=gamma), TinyModel(), TinyModel(seed=1)
    packing = Packing(max_tokens=max_tokens, packed=packed, num_ranks=num_ranks)
    batch = deal(rollout_groups(1, [4, 2, 3]), step=0, num_minibatches=1, num_epochs=1, seed=0, packing=packing)
    learners = [Learner(FakeBackend(rank, num_ranks), READOUT, packed) for rank in range(num_ranks)]
    teachers = [Learner(FakeBackend(rank, num_ranks, teacher), READOUT, packed) for rank in range(num_ranks)]
    for name, models in (("old_logprobs", learners), ("teacher_logprobs", teachers)):
        columns = batch.in_pack_order([each.compute_columns(each.shard(batch)) for each in models])
        batch = batch.with_columns([{name: columns}])
    credited = [learner.assign_credit(learner.shard(batch), algorithm)[0] for learner in learners]
    batch = batch.with_columns([{"advantages": batch.in_pack_order([columns["advantages"] for columns in credited])}])
    loss = algorithm.loss
    stats = merge([learner.update(learner.shard(batch, loss), loss, 0.1) for learner in learners]).values()

    rows = [(row, part.groups[row.group][row.index]) for part in batch.minibatches for row in part.rows]
    total, gap, num_tokens = torch.zeros(()), 0.0, sum(row.num_loss_tokens for row, _ in rows)
    for row, rollout in rows:
        places = [t for t in range(1, row.num_tokens) if rollout.loss_mask[t]]
        ours, theirs = (row_logprobs(model, rollout.token_ids, 0.8) for model in (student, teacher))
        log_ratios = [(theirs[t - 1] - ours[t - 1]).item() for t in places]
        gap -= sum(log_ratios)
        for t, advantage in zip(places, naive_advantages(log_ratios, gamma, row.signal), strict=True):
            total = total - advantage * ours[t - 1] / num_tokens
    student.zero_grad()
    total.backward()
    gradient = sum(learner.backend.gradients[0] for learner in learners)
    torch.testing.assert_close(gradient, student.gradient, atol=1e-6, rtol=1e-4)
    assert stats["teacher_kl_k1"] == pytest.approx(gap / num_tokens, rel=1e-4)


# The expected gradient, by enumeration


VOCAB, LENGTH = 3, 3
PREFIXES = [prefix for length in range(LENGTH) for prefix in itertools.product(range(VOCAB), repeat=length)]


def model_of(seed: int) -> dict[tuple[int, ...], Tensor]:
    """Logits of the next token after each prefix."""
    generator = torch.Generator().manual_seed(seed)
    return {prefix: torch.randn(VOCAB, generator=generator).requires_grad_() for prefix in PREFIXES}


def logprobs_of(model: dict[tuple[int, ...], Tensor], sequence: tuple[int, ...]) -> Tensor:  # [LENGTH]
    return torch.stack([model[sequence[:t]].log_softmax(0)[sequence[t]] for t in range(LENGTH)])


def gradient_of(value: Tensor, model: dict[tuple[int, ...], Tensor]) -> Tensor:
    return torch.cat(torch.autograd.grad(value, list(model.values())))


def exact_divergence(student: Any, teacher: Any, gamma: float) -> Tensor:
    """The KL of whole sequences (gamma 1), or of each token's distribution at the prefixes that the student reaches,
    whose frequency has no gradient (gamma 0)."""
    if gamma == 1.0:
        pairs = [
            (logprobs_of(student, each), logprobs_of(teacher, each))
            for each in itertools.product(range(VOCAB), repeat=LENGTH)
        ]
        return sum(ours.sum().exp() * (ours.sum() - theirs.sum()) for ours, theirs in pairs)
    total = torch.zeros(())
    for prefix in PREFIXES:
        reached = math.prod(student[prefix[:t]].softmax(0)[prefix[t]].item() for t in range(len(prefix)))
        ours, theirs = student[prefix].log_softmax(0), teacher[prefix].log_softmax(0)
        total = total + reached * (ours.exp() * (ours - theirs)).sum()
    return total


@pytest.mark.parametrize("gamma", [0.0, 1.0])
def test_the_expected_gradient_is_that_of_the_reverse_kl(gamma):
    """Over all sequences, each as often as the student samples it."""
    algorithm, student, teacher = distillation(gamma=gamma), model_of(0), model_of(1)
    expected = torch.zeros(())
    for sequence in itertools.product(range(VOCAB), repeat=LENGTH):
        ours, theirs = logprobs_of(student, sequence), logprobs_of(teacher, sequence)
        flat = {
            name: np.r_[0.0, values.detach()] for name, values in (("old_logprobs", ours), ("teacher_logprobs", theirs))
        }
        ids, mask = np.array([0, *sequence]), np.arange(LENGTH + 1) > 0
        batch = MicroBatch.from_rows(
            [ids], [mask], [0.0], {**flat, "rollout_logprobs": flat["old_logprobs"]}, packed=True
        )
        logprobs = torch.cat([torch.zeros(1), ours]).unsqueeze(0)
        statistics = TokenStatistics(entropy=torch.zeros_like(logprobs), first_choice=logprobs > 0)
        loss_sum, _ = algorithm.loss(TokenOutputs(logprobs, statistics), algorithm.assign_credit(batch))
        expected = expected + ours.sum().exp().detach() * loss_sum
    exact = gradient_of(exact_divergence(student, teacher, gamma), student)
    torch.testing.assert_close(gradient_of(expected, student), exact, atol=1e-6, rtol=1e-4)
    assert exact.abs().max() > 0.05


# Rewards, and what is refused


def test_the_reward_of_the_group_is_added_with_its_weight():
    infos = [make_info(Score(value=value), sample=i) for i, value in enumerate((1.0, 0.0, 0.5))]
    failed = make_info(Failure(kind="reward_timeout", message="10 s"), sample=3)
    group, alone = make_group(0, [*infos, failed]), make_group(0, [infos[0], failed])
    assert distillation(reward_coef=0.2).group_advantages(group) == pytest.approx([0.15, -0.15, 0.0])
    assert distillation().group_advantages(group) == [0.0, 0.0, 0.0]
    assert not distillation(reward_coef=0.2).admits(alone)
    assert distillation().admits(alone)


def test_it_reads_a_teacher_and_its_own_logprobs_and_no_reference():
    config = OnPolicyDistillationConfig()
    assert (config.reads_teacher, config.reads_old_logprobs, config.reads_reference) == (True, True, False)
    assert not AlgorithmConfig().reads_teacher
    empty = distillation().assign_credit(MicroBatch.empty())
    assert not empty.column("advantages").any()


@pytest.mark.parametrize(
    ("keys", "sentence"),
    [
        ({"gamma": 1.5}, "algorithm.gamma=1.5: must lie between 0 and 1"),
        ({"gamma": math.nan}, "algorithm.gamma=nan: must lie between 0 and 1"),
        ({"reward_coef": -1.0}, "algorithm.reward_coef=-1.0: must not be negative"),
        (
            {"reward_coef": 0.1, "group_size": 1},
            "algorithm.reward_coef=0.1, algorithm.group_size=1: a reward's baseline",
        ),
        ({"group_size": 0}, "algorithm.group_size=0: give at least 1 rollout per prompt"),
    ],
)
def test_impossible_keys_are_refused(keys, sentence):
    with pytest.raises(InputError) as refused:
        OnPolicyDistillationConfig(**keys)
    assert sentence in str(refused.value)

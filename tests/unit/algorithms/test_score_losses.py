"""Losses of score heads: rewards of whole responses from pairs, and of single steps."""

import math
from collections.abc import Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from rlhf.algorithms.base import Loss, Mean, Metrics, ScoreOutputs, TokenOutputs
from rlhf.algorithms.process_reward import ProcessRewardConfig
from rlhf.algorithms.reward_model import RewardModelConfig
from rlhf.ops.microbatch import MicroBatch
from rlhf.types import InputError, Row
from tests.unit.algorithms.layouts import Sequences, lay_out, loss_and_gradient, make_sequences

LENGTHS = [5, 9, 2, 7, 4, 4]
REWARD_MODELS = {
    "plain": RewardModelConfig(),
    "margin": RewardModelConfig(use_margin=True),
    "centred": RewardModelConfig(centring_coef=0.05),
    "both": RewardModelConfig(use_margin=True, centring_coef=0.01),
}


class OfScores:
    """A loss of scores, given what `lay_out` makes: the numbers it calls logprobs are the scores."""

    def __init__(self, loss: Loss) -> None:
        self.loss, self.count = loss, loss.count

    def __call__(self, outputs: TokenOutputs, batch: MicroBatch) -> tuple[Tensor, Metrics]:
        return self.loss(ScoreOutputs(scores=outputs.logprobs), batch)


def scored(seed: int, lengths: Sequence[int]) -> Sequences:
    """Rows whose score is read at the last token; their graded qualities are 0 or 1."""
    return make_sequences(seed, lengths, [[False] * (length - 1) + [True] for length in lengths])


def naive_reward_model(config: RewardModelConfig, sequences: Sequences) -> tuple[float, list[list[float]]]:
    """Loss and its gradient with respect to each row's numbers, pair by pair."""
    loss, gradients, num_pairs = 0.0, [], len(sequences.mask) // 2
    for i in range(0, len(sequences.mask), 2):
        chosen, rejected = sequences.logprobs[i][-1], sequences.logprobs[i + 1][-1]
        margin = sequences.scores[i] - sequences.scores[i + 1] if config.use_margin else 0.0
        probability = 1 / (1 + math.exp(-(chosen - rejected - margin)))
        centre = config.centring_coef * (chosen + rejected) ** 2
        loss += (-math.log(probability) + centre) / num_pairs
        slope = 2 * config.centring_coef * (chosen + rejected)
        gradients.append([0.0] * (len(sequences.mask[i]) - 1) + [(slope - (1 - probability)) / num_pairs])
        gradients.append([0.0] * (len(sequences.mask[i + 1]) - 1) + [(slope + (1 - probability)) / num_pairs])
    return loss, gradients


def assert_gradients(found: list[list[float]], expected: list[list[float]]) -> None:
    for one, other in zip(found, expected, strict=True):
        assert one == pytest.approx(other, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("splits", [[[0, 1, 2, 3, 4, 5]], [[4, 5, 0, 1], [2, 3]]])
@pytest.mark.parametrize("name", REWARD_MODELS)
def test_reward_model_equals_pairs_one_by_one(name, splits, packed):
    sequences = scored(0, LENGTHS)
    expected, expected_gradients = naive_reward_model(REWARD_MODELS[name], sequences)
    loss = OfScores(REWARD_MODELS[name].build())
    found, gradients, metrics = loss_and_gradient(loss, sequences, splits, [], packed=packed)
    assert loss.count(sequences.rows) == 3
    assert found == pytest.approx(expected, rel=1e-5)
    assert_gradients(gradients, expected_gradients)
    scores = [row[-1] for row in sequences.logprobs]
    margins = [c - r for c, r in zip(scores[0::2], scores[1::2], strict=True)]
    assert metrics == pytest.approx(
        {
            "chosen_score": sum(scores[0::2]),
            "rejected_score": sum(scores[1::2]),
            "margin": sum(margins),
            "accuracy": sum(margin > 0 for margin in margins),
        },
        rel=1e-4,
    )


@pytest.mark.parametrize("packed", [True, False])
@given(st.lists(st.integers(1, 7), min_size=1, max_size=6), st.data())
@settings(max_examples=25, deadline=None)
def test_process_reward_equals_steps_one_by_one_in_any_split(packed, lengths, data):
    sequences = make_sequences(data.draw(st.integers(0, 100)), lengths)
    packs: dict[int, list[int]] = {}
    for row in data.draw(st.permutations(range(len(lengths)))):
        packs.setdefault(data.draw(st.integers(0, 2)), []).append(row)
    steps = [(i, t) for i, mask in enumerate(sequences.mask) for t, on in enumerate(mask) if on]
    loss = OfScores(ProcessRewardConfig().build())
    count = loss.count(sequences.rows)
    assert count == len(steps)
    if not steps:
        return
    expected, right, gradients = 0.0, 0, [[0.0] * length for length in lengths]
    for i, t in steps:
        probability, target = 1 / (1 + math.exp(-sequences.logprobs[i][t])), sequences.targets[i][t]
        expected -= (target * math.log(probability) + (1 - target) * math.log(1 - probability)) / count
        gradients[i][t] = (probability - target) / count
        right += (probability > 0.5) == (target > 0.5)
    found = loss_and_gradient(loss, sequences, list(packs.values()), ["targets"], packed=packed)
    assert found[0] == pytest.approx(expected, rel=1e-4)
    assert_gradients(found[1], gradients)
    assert found[2] == {"accuracy": right}


@pytest.mark.parametrize("loss", [RewardModelConfig(use_margin=True).build(), ProcessRewardConfig().build()])
def test_the_empty_batch_adds_nothing(loss):
    _, outputs, leaves = lay_out(scored(1, [2]), [0], [], packed=True)
    loss_sum, metrics = loss(ScoreOutputs(scores=outputs.logprobs), MicroBatch.empty())
    loss_sum.backward()
    assert loss_sum.item() == 0.0
    assert leaves[0].grad.tolist() == [0.0, 0.0]
    for value in metrics.values():
        total, weight = (value.total, value.weight) if isinstance(value, Mean) else (value, 0)
        assert (total.item(), weight) == (0.0, 0)


def test_scores_outside_the_mask_do_not_matter():
    batch, outputs, _ = lay_out(scored(2, LENGTHS), range(6), ["targets"], packed=False)
    scores = outputs.logprobs.detach()
    for loss in (RewardModelConfig(centring_coef=0.1).build(), ProcessRewardConfig().build()):
        expected, _ = loss(ScoreOutputs(scores=scores), batch)
        found, _ = loss(ScoreOutputs(scores=scores.masked_fill(~batch.loss_mask, torch.nan)), batch)
        assert found.item() == expected.item()


def test_the_count_of_steps_needs_scalars_alone():
    rows = [Row(group=0, index=i, num_tokens=9, num_loss_tokens=n) for i, n in enumerate((3, 0, 2))]
    assert ProcessRewardConfig().build().count(rows) == 5


@pytest.mark.parametrize("value", [-0.01, math.inf, math.nan])
def test_a_centring_that_makes_no_sense_is_named(value):
    with pytest.raises(InputError, match=rf"^algorithm\.centring_coef={value}: must"):
        RewardModelConfig(centring_coef=value)

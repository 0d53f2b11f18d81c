"""PPO's credit and losses against loops over tokens, in any layout."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from rlhf.algorithms.base import ValueOutputs
from rlhf.algorithms.ppo import KLPlace, PPOConfig
from rlhf.algorithms.value_loss import ValueLoss
from rlhf.ops.kl import KLEstimator
from rlhf.ops.microbatch import MicroBatch
from rlhf.types import InputError, Row, Sampling

SAMPLING = Sampling(temperature=1.0, max_tokens=8)
LENGTHS = [6, 2, 9, 4]


def columns(seed: int) -> tuple[list[np.ndarray], dict[str, list[np.ndarray]], list[float]]:
    """Masks with holes, the second row's empty; columns per row; scores."""
    generator = np.random.default_rng(seed)
    masks = [np.arange(n) > 0 for n in LENGTHS]
    masks = [mask & (generator.random(len(mask)) < 0.7) for mask in masks]
    masks[1][:] = False
    names = ("old_logprobs", "ref_logprobs", "values")
    drawn = {name: [generator.normal(size=n).astype(np.float32) for n in LENGTHS] for name in names}
    return masks, drawn, generator.normal(size=len(LENGTHS)).tolist()


def micro_batch(seed: int, chosen: list[int], *, packed: bool) -> MicroBatch:
    masks, drawn, scores = columns(seed)
    return MicroBatch.from_rows(
        [np.zeros(LENGTHS[i], dtype=np.int32) for i in chosen],
        [masks[i] for i in chosen],
        [scores[i] for i in chosen],
        {name: np.concatenate([rows[i] for i in chosen]) for name, rows in drawn.items()},
        packed=packed,
    )


def naive(config: PPOConfig, seed: int, row: int) -> tuple[np.ndarray, np.ndarray]:
    """Advantages and returns of a row, [T]."""
    masks, drawn, scores = columns(seed)
    places = np.flatnonzero(masks[row])
    old, ref, values = (drawn[name][row][places].astype(np.float64) for name in drawn)
    estimators = {
        KLEstimator.k1: lambda log_r: -log_r,
        KLEstimator.k2: lambda log_r: log_r**2 / 2,
        KLEstimator.k3: lambda log_r: math.exp(log_r) - 1 - log_r,
    }
    rewards = [0.0] * len(places)
    if config.kl_in is KLPlace.reward:
        rewards = [-config.kl_coef * estimators[config.kl_estimator](r - o) for o, r in zip(old, ref, strict=True)]
    advantages, returns = np.zeros(LENGTHS[row]), np.zeros(LENGTHS[row])
    if len(places):
        rewards[-1] += scores[row]
    running = 0.0
    for t in reversed(range(len(places))):
        after = values[t + 1] if t + 1 < len(places) else 0.0
        running = rewards[t] + config.gamma * after - values[t] + config.gamma * config.gae_lambda * running
        advantages[places[t]], returns[places[t]] = running, running + values[t]
    return advantages, returns


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("chosen", [[0, 1, 2, 3], [2], [1], [3, 0]])
@pytest.mark.parametrize(
    "config",
    [
        PPOConfig(kl_coef=0.3, gamma=0.9, gae_lambda=0.8),
        PPOConfig(kl_coef=0.3, kl_estimator=KLEstimator.k3),
        PPOConfig(kl_coef=0.3, kl_in=KLPlace.loss, kl_estimator=KLEstimator.k2),
        PPOConfig(),
    ],
    ids=["k1", "k3", "in the loss", "no KL"],
)
def test_credit_equals_a_loop_over_tokens(config, chosen, packed):
    batch = config.build(SAMPLING).assign_credit(micro_batch(5, chosen, packed=packed))
    for name, index in (("advantages", 0), ("returns", 1)):
        expected = np.concatenate([naive(config, 5, row)[index] for row in chosen])
        np.testing.assert_allclose(batch.flatten(batch.column(name)), expected, atol=1e-5)


def test_a_rank_without_rows_assigns_nothing():
    batch = PPOConfig(kl_coef=0.1).build(SAMPLING).assign_credit(MicroBatch.empty())
    assert not batch.advantages.any()
    assert not batch.returns.any()


def test_the_adaptive_coefficient_is_what_the_next_credit_uses():
    config = PPOConfig(kl_coef=0.2, kl_target=0.1, kl_horizon=100)
    algorithm = config.build(SAMPLING)
    algorithm.adapt(kl=0.5, num_rollouts=50)  # far above the target: the step is clipped to a fifth
    assert algorithm.kl_coef == pytest.approx(0.2 * (1 + 0.2 * 50 / 100))
    algorithm.adapt(kl=0.09, num_rollouts=50)
    assert algorithm.kl_coef == pytest.approx(0.22 * (1 - 0.1 * 50 / 100))
    before = algorithm.kl_coef
    algorithm.adapt(kl=float("nan"), num_rollouts=50)
    algorithm.adapt(kl=None, num_rollouts=50)
    assert algorithm.kl_coef == before
    resumed = config.build(SAMPLING)
    resumed.restore(algorithm.state())
    found, expected = (a.assign_credit(micro_batch(1, [0, 2], packed=True)) for a in (resumed, algorithm))
    assert (found.advantages == expected.advantages).all()
    fresh = config.build(SAMPLING).assign_credit(micro_batch(1, [0, 2], packed=True))
    assert not torch.equal(fresh.advantages, found.advantages)


def test_the_kl_is_in_the_reward_or_in_the_loss_never_in_both():
    in_reward = PPOConfig(kl_coef=0.2)
    in_loss = PPOConfig(kl_coef=0.2, kl_in=KLPlace.loss, kl_estimator=KLEstimator.k3)
    assert (in_reward.build(SAMPLING).loss.kl_coef, in_reward.reads_old_logprobs) == (0.0, True)
    assert (in_loss.build(SAMPLING).loss.kl_coef, in_loss.reads_old_logprobs) == (0.2, False)
    assert in_reward.reads_reference
    assert in_loss.reads_reference


@pytest.mark.parametrize("clip", [None, 0.2])
@pytest.mark.parametrize("splits", [[[0, 1, 2, 3]], [[2], [0, 3], [1]]])
@pytest.mark.parametrize("packed", [True, False])
def test_value_loss_and_gradient_equal_a_loop_over_tokens(clip, splits, packed):
    loss = ValueLoss(clip=clip, coef=0.5)
    masks, drawn, _ = columns(9)
    new = [np.random.default_rng(i).normal(size=n).astype(np.float32) for i, n in enumerate(LENGTHS)]
    algorithm = PPOConfig().build(SAMPLING)
    rows = [Row(group=0, index=i, num_tokens=n, num_loss_tokens=int(masks[i].sum())) for i, n in enumerate(LENGTHS)]
    count = loss.count(rows)
    assert count == sum(mask.sum() for mask in masks)
    total, gradients, errors = 0.0, [np.zeros(n) for n in LENGTHS], 0.0
    for chosen in splits:
        batch = algorithm.assign_credit(micro_batch(9, chosen, packed=packed))
        flat = MicroBatch.from_rows(
            [np.zeros(LENGTHS[i], dtype=np.int32) for i in chosen], [masks[i] for i in chosen], [0.0] * len(chosen),
            {"values": np.concatenate([new[i] for i in chosen])}, packed=packed,
        )  # fmt: skip
        values = flat.values.requires_grad_()
        loss_sum, metrics = loss(ValueOutputs(values=values), batch)
        (loss_sum / count).backward()
        total += loss_sum.item() / count
        errors += metrics["value_error"].item()
        together = batch.flatten(values.grad)
        for i, part in zip(chosen, np.split(together, np.cumsum([LENGTHS[i] for i in chosen])[:-1]), strict=True):
            gradients[i] = part
    expected, expected_error = 0.0, 0.0
    for i, mask in enumerate(masks):
        _, returns = naive(PPOConfig(), 9, i)
        for t in np.flatnonzero(mask):
            value, old, target = float(new[i][t]), float(drawn["values"][i][t]), returns[t]
            near = value if clip is None else min(max(value, old - clip), old + clip)
            inside = clip is None or (near - target) ** 2 <= (value - target) ** 2
            expected += 0.5 * max((value - target) ** 2, (near - target) ** 2) / 2 / count
            expected_error += (value - target) ** 2
            gradient = 0.5 * (value - target) / count if inside or near == value else 0.0
            assert gradients[i][t] == pytest.approx(gradient, abs=1e-6)
        assert not gradients[i][~mask].any()
    assert total == pytest.approx(expected, abs=1e-5)
    assert errors == pytest.approx(expected_error, rel=1e-5)


def test_a_missing_column_is_named():
    batch = replace(micro_batch(5, [0], packed=True), values=None)
    with pytest.raises(AssertionError, match="no column 'values'"):
        PPOConfig().build(SAMPLING).assign_credit(batch)


@pytest.mark.parametrize(
    ("keys", "sentence"),
    [
        ({"gamma": 1.5}, "algorithm.gamma=1.5: must lie between 0 and 1"),
        ({"gae_lambda": -0.1}, "algorithm.gae_lambda=-0.1: must lie between 0 and 1"),
        ({"clip_value": 0.0}, "algorithm.clip_value=0.0: must be positive; null does not clip"),
        ({"value_coef": 0.0}, "algorithm.value_coef=0.0: must be positive"),
        ({"group_size": 0}, "algorithm.group_size=0: give at least 1"),
        ({"kl_target": 0.1}, "algorithm.kl_target=0.1, algorithm.kl_coef=0.0: the controller needs"),
        ({"kl_coef": 0.1, "kl_target": -1.0}, "algorithm.kl_target=-1.0"),
        ({"kl_coef": 0.1, "kl_in": KLPlace.loss}, "the gradient of k1 is zero on average"),
        ({"kl_horizon": 0}, "algorithm.kl_horizon=0"),
        ({"clip_low": 1.1}, "algorithm.clip_low=1.1"),
    ],
)
def test_values_that_cannot_be_meant_are_refused(keys, sentence):
    with pytest.raises(InputError) as caught:
        PPOConfig(**keys)
    assert sentence in str(caught.value)

"""GRPO: what it asks for, what it learns from, and what credit it gives."""

import re
from collections.abc import Sequence

import numpy as np
import pytest

from rlhf.algorithms.base import AlgorithmConfig
from rlhf.algorithms.grpo import GRPOConfig
from rlhf.ops.microbatch import MicroBatch
from rlhf.types import EpisodeInfo, Failure, Group, InputError, Prompt, Reference, Row, Sampling, Score

PROMPT = Prompt(id="p", messages=[], token_ids=(3, 4), source="rows.jsonl:1", meta={})
FAILED = Failure(kind="reward_timeout", message="10 s")
SAMPLING = Sampling(temperature=0.7, max_tokens=5)


def group(scores: Sequence[float | None]) -> Group:
    """A group with these rewards; None is a failure."""
    infos = [
        EpisodeInfo(
            id=f"p/0/{i}",
            prompt_id="p",
            source=PROMPT.source,
            rows=(Row(group=0, index=i, num_tokens=4, num_loss_tokens=2),),
            score=FAILED if score is None else Score(value=score),
            stop="stop",
            versions=(0, 0),
            trained=True,
        )
        for i, score in enumerate(scores)
    ]
    return Group(prompt=PROMPT, rollouts=Reference(None), infos=infos)


def test_every_rollout_is_sampled_alike():
    assert GRPOConfig(group_size=3).build(SAMPLING).requests(PROMPT) == [SAMPLING] * 3


@pytest.mark.parametrize(
    ("scores", "admitted"),
    [([1.0, 0.0], True), ([1.0, None, 1.0], True), ([1.0, None], False), ([None, None], False)],
)
def test_a_group_needs_two_survivors(scores, admitted):
    assert GRPOConfig().build(SAMPLING).admits(group(scores)) is admitted


@pytest.mark.parametrize(
    ("scores", "admitted"),
    [([1.0, 0.0], True), ([1.0, 1.0, None], False), ([0.0, 0.0, 0.5], True), ([1.0, None], False), ([None], False)],
)
def test_dynamic_sampling_replaces_groups_of_equal_rewards(scores, admitted):
    assert GRPOConfig(dynamic_sampling=True).build(SAMPLING).admits(group(scores)) is admitted


def test_a_failure_is_not_in_the_baseline():
    algorithm = GRPOConfig(scale_by_std=False).build(SAMPLING)
    assert algorithm.group_advantages(group([4.0, None, 0.0, 2.0])) == [2.0, -2.0, 0.0]
    scaled = GRPOConfig(scale_by_std=True).build(SAMPLING).group_advantages(group([4.0, None, 0.0, 2.0]))
    assert scaled == pytest.approx([1.0, -1.0, 0.0], abs=1e-5)  # the sample deviation of 4, 0, 2 is 2


@pytest.mark.parametrize("packed", [True, False])
def test_credit_is_the_score_on_the_tokens_the_policy_chose(packed):
    ids = [np.arange(3, 3 + length, dtype=np.int32) for length in (3, 5, 2)]
    masks = [np.array([False, True, True]), np.array([False, True, False, True, True]), np.array([False, True])]
    batch = MicroBatch.from_rows(ids, masks, [1.5, -0.5, 0.25], {}, packed=packed)
    credited = GRPOConfig().build(SAMPLING).assign_credit(batch)
    assert batch.advantages is None
    assert batch.flatten(credited.column("advantages")).tolist() == [0, 1.5, 1.5, 0, -0.5, 0, -0.5, -0.5, 0, 0.25]
    assert credited.column("advantages").sum().item() == 3.0 - 1.5 + 0.25


@pytest.mark.parametrize(
    ("keys", "reads"), [({}, False), ({"kl_coef": 0.01}, True), ({"measure_kl": True}, True)], ids=str
)
def test_the_reference_is_read_where_its_kl_is_used(keys, reads):
    assert GRPOConfig(**keys).reads_reference is reads


@pytest.mark.parametrize(
    ("keys", "sentence"),
    [
        ({"group_size": 1}, "algorithm.group_size=1: GRPO's baseline is the mean of a group, set at least 2"),
        ({"clip_low": 0.0}, "algorithm.clip_low=0.0: must lie between 0 and 1; 0.2 is usual"),
        ({"clip_low": 1.5}, "algorithm.clip_low=1.5: must lie between 0 and 1; 0.2 is usual"),
        ({"clip_high": 0.0}, "algorithm.clip_high=0.0: must be positive; 0.2 to 0.28 is usual"),
        ({"kl_coef": -0.1}, "algorithm.kl_coef=-0.1: must not be negative; 0 turns the penalty off"),
    ],
)
def test_values_out_of_range_are_refused(keys, sentence):
    with pytest.raises(InputError, match=f"^{re.escape(sentence)}$"):
        GRPOConfig(**keys)


@pytest.mark.parametrize("key", ["clip_low", "clip_high", "kl_coef"])
def test_nan_is_refused(key):
    with pytest.raises(InputError, match=f"algorithm.{key}=nan"):
        AlgorithmConfig(**{key: float("nan")})

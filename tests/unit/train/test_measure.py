"""Figures of a validation, in closed form."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from rlhf.ops.intervals import estimate_mean, estimate_share
from rlhf.train.measure import MEASUREMENT_EPOCH, figure_names, figures_of, measure, sample, successes
from rlhf.train.validation import ValidationConfig
from rlhf.types import Failure, Group, InputError, Prompt, RunError, Sampling, Score
from tests.unit.train.fakes import make_group, make_info, make_prompt

SAMPLING = Sampling(temperature=0.7, max_tokens=5)
BROKEN = Failure(kind="environment", message="no temperature 0")


def group_of(number: int, rewards: Sequence[float | None], *, source: str = "a") -> Group:
    scores = [BROKEN if reward is None else Score(value=reward) for reward in rewards]
    infos = [make_info(score, number=number, sample=i, num_loss_tokens=i + 1, stop="length" if i else "stop")
             for i, score in enumerate(scores)]  # fmt: skip
    group = make_group(number, infos, ["rows"])
    return replace(group, prompt=replace(group.prompt, meta={"data_source": source}))


def test_success_counts_failures_and_reads_a_part_that_the_score_has():
    scores = [Score(value=0.5, parts={"solved": 1.0}), BROKEN, Score(value=1.0)]
    infos = [make_info(score, sample=i) for i, score in enumerate(scores)]
    assert successes(infos, ValidationConfig()) == [False, False, True]
    with pytest.raises(InputError, match=r"^validation.part=solved: the score of an episode has no such part; it has"):
        successes(infos, ValidationConfig(part="solved"))
    assert successes(infos[:2], ValidationConfig(part="solved")) == [True, False]


def test_figures_are_of_the_sampled_episodes_and_greedy_ones_have_their_own():
    config = ValidationConfig(samples_per_prompt=3, pass_at=[2], greedy=True, source_key="data_source")
    groups = [
        group_of(0, [1.0, 0.0, None, 1.0], source="a"),
        group_of(1, [0.0, 0.0, 0.0, 0.0], source="b"),
        group_of(2, [1.0, 1.0, 0.5, 0.0], source="b"),
    ]
    found = figures_of(groups, config)
    success = estimate_share(np.array([1, 0, 0, 0, 0, 0, 1, 1, 0]), np.repeat([0, 1, 2], 3))
    reward = estimate_mean(np.array([1, 0, 0, 0, 0, 1, 1, 0.5]), np.array([0, 0, 1, 1, 1, 2, 2, 2]))
    passed = estimate_share(np.array([1 - 1 / 3, 0.0, 1.0]), np.arange(3))  # C(2, 2) / C(3, 2) and C(1, 2) = 0
    greedy = estimate_share(np.array([1, 0, 0]), np.arange(3))
    for name, estimate in (("success", success), ("reward", reward), ("pass@2", passed), ("greedy/success", greedy)):
        expected = [estimate.mean, estimate.low, estimate.high]
        np.testing.assert_allclose([found[f"{name}{end}"] for end in ("", "_low", "_high")], expected, err_msg=name)
    assert found["completion_tokens"] == 2.0
    assert found["truncated"] == pytest.approx(2 / 3)
    assert found["failures"] == 1.0
    assert (found["a/reward"], found["b/success"]) == (0.5, pytest.approx(1 / 3))
    assert (found["b/reward"], found["greedy/reward"]) == (pytest.approx((0 + 2.5 / 3) / 2), pytest.approx(1 / 3))
    known = figure_names(config, [group.prompt for group in groups])
    assert {name for name in found if not name.endswith(("_low", "_high"))} == set(known)


def test_without_a_reward_there_is_success_alone():
    found = figures_of([group_of(0, [None, None])], ValidationConfig(samples_per_prompt=2))
    assert found["success"] == 0.0
    assert "reward" not in found


class Source:
    """An engine whose answers are the sums of what is asked; `broken` at temperature 0."""

    def __init__(self, broken: bool = False) -> None:
        self.broken, self.asked = broken, []

    async def collect(self, prompt: Prompt, epoch: int, requests: Sequence[Sampling]) -> Group:
        self.asked.append((prompt.id, epoch, list(requests)))
        values = [None if self.broken and request.temperature == 0 else 1.0 for request in requests]
        number = int(prompt.id[1:])
        return group_of(number, values)


async def test_each_prompt_is_asked_as_in_training_and_once_greedily():
    source = Source()
    found = await measure(source, lambda groups: [[None] * 9 for _ in groups], [make_prompt(i) for i in range(3)],
                          SAMPLING, ValidationConfig(samples_per_prompt=2, greedy=True, num_shown=0))  # fmt: skip
    greedy = Sampling(temperature=0.0, max_tokens=5)
    assert source.asked == [(f"p{i}", MEASUREMENT_EPOCH, [SAMPLING, SAMPLING, greedy]) for i in range(3)]
    assert (found.success.mean, found.figures["greedy/success"]) == (1.0, 1.0)


async def test_an_engine_that_cannot_sample_greedily_is_named():
    config = ValidationConfig(samples_per_prompt=2, greedy=True, num_shown=0)
    sentence = (
        r"^validation.greedy=true: all 2 episodes at temperature 0 failed, and not all others; .* no temperature 0"
    )
    with pytest.raises(RunError, match=sentence):
        await measure(Source(broken=True), list, [make_prompt(i) for i in range(2)], SAMPLING, config)


async def test_no_prompt_is_sampled_on_once_one_could_not_be():
    """A run that continues after a learner's death measures again, on the same engines."""
    ended = []

    class Source:
        async def collect(self, prompt: Prompt, epoch: int, requests: Sequence[Sampling]) -> Group:
            if prompt.id == "p0":
                raise RunError("policy worker 0 died")
            try:
                return await asyncio.Event().wait()
            finally:
                ended.append(prompt.id)

    with pytest.raises(RunError, match="policy worker 0 died"):
        await sample(Source(), [make_prompt(number) for number in range(3)], [SAMPLING])
    assert sorted(ended) == ["p1", "p2"]

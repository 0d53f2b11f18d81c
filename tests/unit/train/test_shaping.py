"""Shaping of rewards and constraints, in closed form, and in the stream of a run that is continued."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest

from rlhf.algorithms.grpo import GRPOConfig
from rlhf.data.order import PromptOrder
from rlhf.rewards.shaping import ConstraintConfig, Shaping, ShapingConfig
from rlhf.train.curriculum import Curriculum, CurriculumConfig
from rlhf.train.metrics import reward_metrics
from rlhf.train.stream import RolloutStream, StreamConfig
from rlhf.types import Failure, Group, InputError, Prompt, RunError, Sampling, Score
from tests.unit.train.fakes import make_group, make_info, make_prompt

FAILED = Failure(kind="reward_timeout", message="late")


def shaped(shaping: Shaping, *scores: tuple[float, int] | None, data_set: str = "", **parts: float) -> list[Any]:
    """Scores of a group after shaping, given rewards and lengths; None is a failure."""
    infos = [
        make_info(FAILED, sample=i)
        if each is None
        else make_info(Score(value=each[0], parts=parts), sample=i, num_loss_tokens=each[1])
        for i, each in enumerate(scores)
    ]
    group = make_group(0, infos)
    prompt = replace(group.prompt, data_set=data_set)
    return [info.score for info in shaping.shape(replace(group, prompt=prompt)).infos]


def test_each_step_is_a_part_and_the_last_is_learnt_from():
    config = ShapingConfig(length_penalty=0.01, overlong_buffer=4, overlong_weight=2.0, lowest=-1.0, highest=0.5)
    first, failure, last = shaped(Shaping(config, {}, 10), (1.0, 2), None, (1.0, 9), exact=1.0)
    assert failure == FAILED
    assert first == Score(
        value=0.5,
        parts={"exact": 1.0, "shaping/raw": 1.0, "shaping/length": 0.98, "shaping/overlong": 0.98,
               "shaping/clipped": 0.5},
    )  # fmt: skip
    # 3 of the 4 tokens of the buffer are used: 1 - 0.09 - 2 x 0.75.
    assert last.value == last.parts["shaping/clipped"] == pytest.approx(-0.59)
    assert last.parts["shaping/length"] == pytest.approx(0.91)


def test_a_prompt_s_own_limit_is_where_the_punishment_ends():
    shaping = Shaping(ShapingConfig(overlong_buffer=2), {}, 100)
    group = make_group(0, [make_info(Score(value=1.0), num_loss_tokens=4)])
    assert shaping.shape(group).infos[0].score.value == 1.0
    short = replace(group, prompt=replace(group.prompt, max_tokens=4))
    assert shaping.shape(short).infos[0].score.value == 0.0


def test_rewards_are_normalised_by_all_of_their_set_so_far():
    shaping = Shaping(ShapingConfig(normalise=True), {}, 10)
    assert [score.value for score in shaped(shaping, (3.0, 1), (3.0, 1))] == [0.0, 0.0]
    values = np.array([3.0, 3.0, 5.0, -1.0])
    found = [score.value for score in shaped(shaping, (5.0, 1), None, (-1.0, 1)) if isinstance(score, Score)]
    assert found == pytest.approx(list((values[2:] - values.mean()) / values.std()))
    assert [score.value for score in shaped(shaping, (100.0, 1), (100.0, 1), data_set="code")] == [0.0, 0.0]


def test_a_multiplier_follows_the_mean_cost_of_each_step_and_stays_at_least_0():
    shaping = Shaping(ShapingConfig(), {"harm": ConstraintConfig(at_most=0.25, lr=2.0)}, 10)
    multipliers = []
    for costs in ([1.0, 0.5], [0.5, 0.5], [0.0, 0.0], [0.0, 0.0]):
        multipliers.append(shaping.multipliers["harm"])
        for cost in costs:
            (score,) = shaped(shaping, (1.0, 1), harm=cost)
            assert score.value == (1.0 - multipliers[-1] * cost) / (1 + multipliers[-1])
            assert score.parts["shaping/raw"] == 1.0
            assert score.parts["shaping/constrained"] == score.value
        shaping.end_step(has_sets=False)
        assert shaping.figures() == {
            "constraint/harm/multiplier": multipliers[-1],
            "constraint/harm/mean": sum(costs) / 2,
        }
    assert multipliers == [0.0, 1.0, 1.5, 1.0]
    assert shaping.multipliers["harm"] == 0.5


def test_the_costs_of_baseline_episodes_move_no_multiplier():
    shaping = Shaping(ShapingConfig(), {"harm": ConstraintConfig(at_most=0.5, lr=1.0, start=1.0)}, 10)
    infos = [make_info(Score(value=1.0, parts={"harm": harm}), sample=i) for i, harm in enumerate((1.0, 9.0))]
    group = shaping.shape(make_group(0, [infos[0], replace(infos[1], trained=False)]))
    assert [info.score.value for info in group.infos] == [0.0, -4.0]
    shaping.end_step(has_sets=False)
    assert shaping.figures()["constraint/harm/mean"] == 1.0


def test_a_constraint_on_a_part_that_no_episode_has():
    shaping = Shaping(ShapingConfig(), {"harm": ConstraintConfig(at_most=0.1)}, 10)
    shaped(shaping, (1.0, 1), exact=1.0)
    shaping.end_step(has_sets=True)
    assert shaping.figures() == {"constraint/harm/multiplier": 0.0}
    with pytest.raises(RunError, match=r"^reward.constraints.harm: no episode of this step has a part of that name"):
        shaping.end_step(has_sets=False)


def test_metrics_have_the_raw_and_the_shaped_reward():
    shaping = Shaping(ShapingConfig(length_penalty=0.5), {}, 10)
    infos = shaping.shape(make_group(0, [make_info(Score(value=1.0)), make_info(Score(value=2.0))])).infos
    figures = reward_metrics(infos)
    assert (figures["reward"], figures["reward/shaping/raw"], figures["reward/shaping/length"]) == (0.0, 1.5, 0.0)


PROMPTS = [make_prompt(number) for number in range(7)]


@dataclass
class Source:
    turns: Sequence[int]
    num_asked: int = 0

    async def collect(self, prompt: Prompt, epoch: int, requests: Sequence[Sampling]) -> Group:
        self.num_asked += 1
        for _ in range(self.turns[self.num_asked % len(self.turns)]):
            await asyncio.sleep(0)
        luck = int(prompt.id[1:]) * 3 + epoch
        values = [((luck + i) % 7) / 3 for i in range(len(requests))]
        infos = [
            make_info(Score(value=value, parts={"harm": value / 2}), sample=i, num_loss_tokens=1 + luck % 5)
            for i, value in enumerate(values)
        ]
        return Group(prompt=prompt, rollouts=None, infos=infos)


async def train(source: Source, steps: range, saved: str | None, rows: list[Any]) -> str:
    order = PromptOrder(PROMPTS, 3)
    shaping = Shaping(
        ShapingConfig(length_penalty=0.1, normalise=True), {"harm": ConstraintConfig(at_most=0.3, lr=0.7)}, 10
    )
    stream = RolloutStream(
        order,
        source,
        GRPOConfig(group_size=3).build(Sampling(temperature=1.0, max_tokens=3)),
        StreamConfig(prompts_per_step=3, max_staleness=1),
        Curriculum(order, CurriculumConfig(rest_after=1, threshold=0.6)),
        shaping,
    )
    if saved is not None:
        stream.restore(json.loads(saved))
    stream.admit(steps.start)
    for step in steps:
        groups = await stream.groups()
        stream.admit(step + 1)
        rows.append((step, [info.score for group in groups for info in group.infos], stream.figures()))
    saved = json.dumps(stream.state())
    await stream.close()
    return saved


@pytest.mark.parametrize("stop", [1, 4, 9])
def test_a_continued_run_shapes_alike(stop):
    undisturbed: list[Any] = []
    last = asyncio.run(train(Source([0, 5, 2]), range(10), None, undisturbed))
    rows: list[Any] = []
    saved = asyncio.run(train(Source([3]), range(stop), None, rows))
    assert asyncio.run(train(Source([0, 1]), range(stop, 10), saved, rows)) == last
    assert rows == undisturbed
    assert rows[-1][2]["constraint/harm/multiplier"] > 0


@pytest.mark.parametrize(
    ("config", "keys", "sentence"),
    [
        (
            ShapingConfig,
            {"length_penalty": -1.0},
            "reward.shaping.length_penalty=-1.0: give 0 or more; it",
        ),
        (ShapingConfig, {"overlong_weight": float("nan")}, "reward.shaping.overlong_weight=nan: give 0 or more"),
        (ShapingConfig, {"overlong_buffer": -1}, "reward.shaping.overlong_buffer=-1: give 0 or more tokens, or null"),
        (ShapingConfig, {"lowest": 1.0, "highest": 1.0}, "reward.shaping.lowest=1.0, reward.shaping.highest=1.0: all"),
        (ConstraintConfig, {"at_most": 0.1, "lr": 0.0}, "reward.constraints: lr=0.0, start=0.0: give a positive"),
        (ConstraintConfig, {"at_most": 0.1, "start": -1.0}, "reward.constraints: lr=0.05, start=-1.0: give a positive"),
    ],
)
def test_values_out_of_range_are_refused(config, keys, sentence):
    with pytest.raises(InputError, match=f"^{re.escape(sentence)}"):
        config(**keys)

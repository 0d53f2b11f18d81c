"""Choice of prompts by pass rates: rest, band, mixed sets, and the same choices in a continued run."""

from __future__ import annotations

import asyncio
import json
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlhf.algorithms.grpo import GRPOConfig
from rlhf.data.order import PromptOrder
from rlhf.train.curriculum import Curriculum, CurriculumConfig
from rlhf.train.stream import RolloutStream, StreamConfig
from rlhf.types import Failure, Group, InputError, Prompt, Sampling, Score
from tests.unit.train.fakes import make_info, make_prompt

FAILED = Failure(kind="reward_timeout", message="late")
WEIGHTS = {"a": 2.0, "b": 1.0}
EVERYTHING = [
    replace(make_prompt(number), id=f"{name}-{number}", data_set=name) for name in WEIGHTS for number in range(8)
]


def curriculum(prompts: Sequence[Prompt], weights: dict[str, float] | None = None, **keys: Any) -> Curriculum:
    return Curriculum(PromptOrder(prompts, 3, weights or {"": 1.0}), CurriculumConfig(**keys))


def group_of(prompt: Prompt, values: Sequence[float | None], **parts: float) -> Group:
    scores = [FAILED if value is None else Score(value=value, parts=parts) for value in values]
    return Group(prompt=prompt, rollouts=None, infos=[make_info(score, sample=i) for i, score in enumerate(scores)])


def walk(chooser: Curriculum, positions: range, values: Callable[[Prompt], Sequence[float | None]]) -> list[str]:
    """Ids of the prompts at the positions, each observed before the next is chosen."""
    ids = []
    for position in positions:
        _, prompt = chooser.prompt_at(position)
        ids.append(prompt.id)
        chooser.observe(position, group_of(prompt, values(prompt)))
    return ids


PROMPTS = [make_prompt(number) for number in range(6)]


def test_a_prompt_solved_twice_in_a_row_rests_for_two_epochs():
    chooser = curriculum(PROMPTS, rest_after=2, rest_epochs=2)
    solved = {"p0": [1.0, 1.0], "p1": [1.0, 0.0]}
    ids = walk(chooser, range(6 + 6 + 5 + 5 + 6), lambda prompt: solved.get(prompt.id, [0.0, 0.0]))
    epochs = [ids[:6], ids[6:12], ids[12:17], ids[17:22], ids[22:]]
    assert ["p0" in epoch for epoch in epochs] == [True, True, False, False, True]
    assert all({f"p{number}" for number in range(1, 6)} <= set(epoch) for epoch in epochs)
    assert chooser.num_skipped == 2


def test_a_group_that_is_not_all_success_ends_the_row():
    chooser = curriculum(PROMPTS, rest_after=2)
    answers = {"p0": iter([[1.0], [0.0], [1.0], [None], [1.0], [0.0]])}
    ids = walk(chooser, range(30), lambda prompt: next(answers["p0"]) if prompt.id == "p0" else [0.0])
    # The group without a reward in the fourth epoch changes nothing; the fifth is the second success in a row.
    assert Counter(ids)["p0"] == 5
    assert "p0" not in walk(chooser, range(30, 35), lambda prompt: [0.0])


def test_if_all_rest_they_are_asked_all_the_same():
    chooser = curriculum(PROMPTS, rest_after=1, rest_epochs=1000)
    assert Counter(walk(chooser, range(18), lambda prompt: [1.0])) == {prompt.id: 3 for prompt in PROMPTS}


def test_pass_rates_are_running_means_and_the_band_is_preferred():
    chooser = curriculum(PROMPTS, lowest=0.2, highest=0.8, keep_outside=0.0, memory=0.25)
    rewards = {"p0": [0.0, 0.0], "p1": [1.0, 1.0]}
    ids = walk(chooser, range(6 + 4 * 10), lambda prompt: rewards.get(prompt.id, [1.0, 0.0]))
    assert Counter(ids) == {"p0": 1, "p1": 1, "p2": 11, "p3": 11, "p4": 11, "p5": 11}
    chooser.prompt_at(100)
    _, prompt = chooser.prompt_at(100)
    chooser.observe(100, group_of(prompt, [1.0, 1.0]))
    assert chooser.records[prompt.id].pass_rate == 0.25 * 0.5 + 0.75 * 1.0
    assert chooser.figures()["curriculum/measured"] == 6.0


def test_prompts_outside_the_band_are_drawn_with_their_probability():
    prompts = [make_prompt(number) for number in range(200)]
    chooser = curriculum(prompts, lowest=0.5, keep_outside=0.3)
    ids = walk(chooser, range(6000), lambda prompt: [1.0] if int(prompt.id[1:]) < 100 else [0.0])
    epochs = chooser.places[""] / 200
    inside = sum(int(prompt_id[1:]) < 100 for prompt_id in ids) / epochs
    outside = sum(int(prompt_id[1:]) >= 100 for prompt_id in ids) / epochs
    assert inside == pytest.approx(100, abs=1)
    assert outside == pytest.approx(30, abs=4)


def test_success_may_be_measured_by_a_part():
    chooser = curriculum(PROMPTS, rest_after=1, part="exact", threshold=0.5)
    _, prompt = chooser.prompt_at(0)
    chooser.observe(0, group_of(prompt, [0.1, 0.2], exact=0.5))
    assert chooser.records[prompt.id].solved == 1
    _, prompt = chooser.prompt_at(1)
    chooser.observe(1, group_of(prompt, [9.0], format=1.0))
    assert chooser.records[prompt.id].pass_rate == 0.0


def test_sets_keep_their_shares_while_prompts_rest():
    chooser = curriculum(EVERYTHING, WEIGHTS, rest_after=1, rest_epochs=3)
    ids = walk(chooser, range(120), lambda prompt: [1.0] if prompt.id in ("a-1", "a-2", "a-3", "b-0") else [0.0])
    assert Counter(prompt_id[0] for prompt_id in ids) == {"a": 80, "b": 40}
    assert Counter(ids)["a-1"] < Counter(ids)["a-0"]


@dataclass
class Source:
    """Engines that end in any order. What they answer depends on prompt and epoch alone."""

    turns: Callable[[int], int]
    num_asked: int = 0

    async def collect(self, prompt: Prompt, epoch: int, requests: Sequence[Sampling]) -> Group:
        self.num_asked += 1
        for _ in range(self.turns(self.num_asked)):
            await asyncio.sleep(0)
        luck = sum(map(ord, prompt.id)) * 31 + epoch * 8
        return group_of(prompt, [float((luck + i) % 7 > 2) for i in range(len(requests))])


async def train(source: Source, staleness: int, steps: range, saved: str | None, rows: list[Any]) -> str:
    """Run steps, add what each has to show to `rows`, and return the state after the last; killed in the next step."""
    chooser = curriculum(EVERYTHING, WEIGHTS, rest_after=1, rest_epochs=2, lowest=0.3, keep_outside=0.25)
    config = StreamConfig(prompts_per_step=3, max_staleness=staleness, max_replaced_per_step=1000)
    algorithm = GRPOConfig(group_size=3, dynamic_sampling=True).build(Sampling(temperature=1.0, max_tokens=3))
    stream = RolloutStream(chooser.order, source, algorithm, config, chooser)
    if saved is not None:
        stream.restore(json.loads(saved))
    stream.admit(steps.start)
    for step in steps:
        groups = await stream.groups()
        stream.admit(step + 1)
        passed, replaced = ([group.prompt.id for group in part] for part in (groups, stream.rejected))
        rows.append((step, passed, replaced, stream.figures()))
    saved = json.dumps(stream.state())
    killed = asyncio.create_task(stream.groups())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    killed.cancel()
    await stream.close()
    return saved


TURNS = st.lists(st.integers(0, 9), min_size=1, max_size=17).map(lambda turns: lambda i: turns[i % len(turns)])


@given(TURNS, TURNS, st.integers(0, 2), st.integers(1, 11))
@settings(max_examples=30, deadline=None)
def test_a_continued_run_chooses_the_same_prompts_whatever_the_engines_speed(turns, others, staleness, stop):
    """Two sets, rest, band and replaced groups; the order of prompts and every figure are equal."""
    undisturbed: list[Any] = []
    last = asyncio.run(train(Source(turns), staleness, range(12), None, undisturbed))
    rows: list[Any] = []
    saved = asyncio.run(train(Source(others), staleness, range(stop), None, rows))
    resumed = asyncio.run(train(Source(turns), staleness, range(stop, 12), saved, rows))
    assert rows == undisturbed
    assert json.loads(resumed) == json.loads(last)
    assert any(replaced for _, _, replaced, _ in rows), "the run must replace groups"
    assert rows[-1][3]["curriculum/skipped"] > 0, "and skip prompts"


@pytest.mark.parametrize(
    ("keys", "sentence"),
    [
        ({"rest_after": 0}, "curriculum.rest_after=0: give at least 1"),
        ({"rest_epochs": 0}, "curriculum.rest_epochs=0: give at least 1"),
        ({"lowest": 0.9, "highest": 0.1}, "curriculum.lowest=0.9, curriculum.highest=0.1: give pass rates from 0 to 1"),
        ({"keep_outside": 1.5}, "curriculum.keep_outside=1.5, curriculum.memory=0.5: give a probability, and a weight"),
        ({"memory": 1.0}, "curriculum.keep_outside=0.1, curriculum.memory=1.0: give a probability, and a weight"),
    ],
)
def test_values_out_of_range_are_refused(keys, sentence):
    with pytest.raises(InputError, match=f"^{re.escape(sentence)}"):
        CurriculumConfig(**keys)


def test_without_keys_it_is_off():
    assert not CurriculumConfig().is_on
    assert CurriculumConfig(rest_after=1).is_on
    assert CurriculumConfig(highest=0.9).is_on

"""Asking copies of a reward model, group by group, and what goes wrong."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from rlhf.rewards.base import ModelInput, RewardConfig
from rlhf.rewards.reward_model import ModelReward
from rlhf.types import Episode, Failure, Prompt, Rollout, RunError, Score, Turn

MODEL = "judge"


def config(**keys: Any) -> RewardConfig:
    return RewardConfig(**{"functions": [], "model": MODEL, **keys})


def sample(number: int) -> tuple[Prompt, Episode]:
    ids = np.array([1, 2, number], dtype=np.int32)
    messages = [{"role": "user", "content": f"问题 {number}"}]
    prompt = Prompt(
        id=f"p{number}", messages=messages, token_ids=(1, 2), source="f:1", meta={"answer": str(number)},
        tools=[{"name": "f"}],
    )  # fmt: skip
    rollout = Rollout(
        prompt_id=prompt.id, token_ids=ids, loss_mask=ids > 2, logprobs=ids * 0.0, versions=ids, stop="stop",
        text=str(number),
        turns=(Turn(speaker="policy", start=2, stop=3, messages=({"role": "assistant", "content": str(number)},)),),
    )  # fmt: skip
    return prompt, Episode(rows=[rollout])


class Judge:
    """Scores token ids by the last; keeps what each call carried."""

    def __init__(self, score: Callable[[Any], float] = lambda judged: float(judged[-1])) -> None:
        self.calls: list[list[Any]] = []
        self.score, self.free = score, asyncio.Event()
        self.free.set()

    async def __call__(self, judged: list[Any]) -> list[float]:
        self.calls.append(judged)
        await asyncio.sleep(0)  # as any call
        await self.free.wait()
        return [self.score(item) for item in judged]


async def dead(judged: list[Any]) -> list[float]:
    raise RunError("the actor died")


def ask(
    judges: Callable[[], list[Callable[[list[Any]], Awaitable[list[float]]]]], groups: list[list[int]], **keys: Any
) -> tuple[list[list[Any]], list[Any]]:
    """Scores of groups, or what was raised, all asked side by side; and the judges."""

    async def scenario() -> tuple[list[list[Any]], list[Any]]:
        made = judges()
        reward = ModelReward(made, config(**keys))
        samples = [[sample(number) for number in group] for group in groups]
        for group in samples:
            for _, episode in group:
                episode.score = Score(value=0.0)
        raised = await asyncio.wait_for(
            asyncio.gather(
                *(reward.judge(group[0][0], [episode for _, episode in group]) for group in samples),
                return_exceptions=True,
            ),
            5,
        )
        await reward.close()
        scores = [
            [error] if error else [episode.score for _, episode in group]
            for group, error in zip(samples, raised, strict=True)
        ]
        return scores, made

    return asyncio.run(scenario())


PAIRS = [[i, i + 1] for i in range(0, 80, 2)]


def test_each_rollout_gets_its_own_score_whatever_copy_its_group_went_to():
    results, judges = ask(lambda: [Judge(), Judge(), Judge()], PAIRS)
    assert [score.value for group in results for score in group] == [float(i) for i in range(80)]
    assert all(score.parts == {"reward_model": score.value} for group in results for score in group)
    assert all(judge.calls for judge in judges)


def test_a_call_carries_one_group_and_nothing_else():
    """Or its last bits would depend on which groups happened to end together."""
    _, judges = ask(lambda: [Judge()], PAIRS)
    assert [[ids[-1] for ids in call] for call in judges[0].calls] == PAIRS


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_score_that_is_no_number_is_a_failure_of_that_rollout_alone(value):
    (group,), _ = ask(lambda: [Judge(lambda judged: value if judged[-1] == 1 else 0.5)], [[0, 1, 2]])
    assert [type(score) for score in group] == [Score, Failure, Score]
    assert group[1].kind == "reward_invalid"
    assert group[1].message.startswith("reward.model=judge: it gave")


def test_a_model_that_raises_fails_what_it_was_asked_and_is_asked_on():
    def score(judged: Any) -> float:
        if judged[-1] == 1:
            raise MemoryError("out of memory")
        return 0.5

    (first, second), _ = ask(lambda: [Judge(score)], [[0, 1], [2, 3]])
    assert {score.kind for score in first} == {"reward_error"}
    assert "MemoryError: out of memory" in first[0].message
    assert [score.value for score in second] == [0.5, 0.5]


def test_a_model_that_hangs_is_a_timeout():
    def hanging() -> list[Any]:
        judge = Judge()
        judge.free.clear()
        return [judge]

    results, _ = ask(hanging, [[0, 1], [2]], model_timeout_s=0.05)
    assert {score.kind for group in results for score in group} == {"reward_timeout"}
    assert "reward.model_timeout_s=0.05" in results[0][0].message


def test_a_dead_copy_s_groups_go_to_another():
    results, _ = ask(lambda: [dead, Judge()], PAIRS)
    assert [score.value for group in results for score in group] == [float(i) for i in range(80)]


def test_without_a_copy_left_the_run_stops():
    results, _ = ask(lambda: [dead, dead], PAIRS)
    assert {type(error) for (error,) in results} == {RunError}
    assert str(results[0][0]) == "reward.model=judge: every worker of it died; resume the run"


def test_a_model_that_reads_text_gets_the_dialogue():
    def score(judged: Any) -> float:
        assert [message["role"] for message in judged.messages] == ["user", "assistant"]
        assert judged.tools == [{"name": "f"}]
        return float(judged.messages[-1]["content"])

    (group,), judges = ask(lambda: [Judge(score)], [[0, 1, 2]], model_input=ModelInput.text)
    assert [score.value for score in group] == [0.0, 1.0, 2.0]
    assert judges[0].calls[0][0].messages[0] == {"role": "user", "content": "问题 0"}


def test_the_model_s_score_is_added_to_what_has_one_and_a_failure_stays_what_it_was():
    failed = Failure(kind="reward_error", message="a bug")

    async def scenario() -> tuple[list[Any], Judge]:
        judge = Judge(lambda judged: -1.0)
        reward = ModelReward([judge], config(functions=["exact"], model_weight=0.5))
        (prompt, scored), (_, unscored) = sample(1), sample(2)
        scored.score, unscored.score = Score(value=2.0, parts={"exact": 1.0}), failed
        await asyncio.wait_for(reward.judge(prompt, [scored, unscored]), 5)
        await asyncio.wait_for(reward.judge(prompt, [unscored]), 5)
        await reward.close()
        return [scored.score, unscored.score], judge

    (total, untouched), judge = asyncio.run(scenario())
    assert total == Score(value=1.5, parts={"exact": 1.0, "reward_model": -1.0})
    assert untouched is failed
    assert [len(call) for call in judge.calls] == [1]


async def test_a_set_weighs_the_model_itself_or_does_without_it():
    judge = Judge()
    reward = ModelReward([judge], config(model_weight=10.0))
    scores = []
    for weights in (None, {"reward_model": 0.5}, {"exact": 1.0}):
        prompt, episode = sample(7)
        episode.score = Score(value=1.0, parts={"exact": 1.0})
        await reward.judge(replace(prompt, reward_weights=weights), [episode])
        scores.append(episode.score)
    await reward.close()
    assert [score.value for score in scores] == [71.0, 4.5, 1.0]
    assert len(judge.calls) == 2

"""Asking copies of a reward model: batches that form by themselves, and what goes wrong."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np
import pytest

from rlhf.rewards.base import ModelInput, RewardConfig
from rlhf.rewards.reward_model import ModelReward
from rlhf.rewards.total import TotalReward
from rlhf.types import Failure, Prompt, Rollout, RunError, Score

MODEL = "judge"


def config(**keys: Any) -> RewardConfig:
    return RewardConfig(**{"functions": [], "model": MODEL, **keys})


def sample(number: int) -> tuple[Prompt, Rollout]:
    ids = np.array([1, 2, number], dtype=np.int32)
    messages = [{"role": "user", "content": f"问题 {number}"}]
    prompt = Prompt(id=f"p{number}", messages=messages, token_ids=(1, 2), source="f:1", meta={"answer": str(number)})
    rollout = Rollout(
        prompt_id=prompt.id, token_ids=ids, loss_mask=ids > 2, logprobs=ids * 0.0, versions=ids, stop="stop",
        text=str(number),
    )  # fmt: skip
    return prompt, rollout


class Judge:
    """Scores token ids by the last; keeps what each call carried."""

    def __init__(self, score: Callable[[Any], float] = lambda judged: float(judged[-1])) -> None:
        self.calls: list[list[Any]] = []
        self.score, self.free = score, asyncio.Event()
        self.free.set()

    async def __call__(self, judged: list[Any]) -> list[float]:
        self.calls.append(judged)
        await self.free.wait()
        return [self.score(item) for item in judged]


async def dead(judged: list[Any]) -> list[float]:
    raise RunError("the actor died")


def ask(
    judges: Callable[[], list[Callable[[list[Any]], Awaitable[list[float]]]]], numbers: range, **keys: Any
) -> tuple[list[Any], list[Any]]:
    """Results of all samples, asked side by side, and the judges."""

    async def scenario() -> tuple[list[Any], list[Any]]:
        made = judges()
        reward = ModelReward(made, config(**keys))
        results = await asyncio.wait_for(
            asyncio.gather(*(reward.score(*sample(i)) for i in numbers), return_exceptions=True), 5
        )
        await reward.close()
        return results, made

    return asyncio.run(scenario())


def test_each_rollout_gets_its_own_score_whatever_copy_it_went_to():
    results, judges = ask(lambda: [Judge(), Judge(), Judge()], range(600))
    assert [result.value for result in results] == [float(i) for i in range(600)]
    assert sum(len(call) for judge in judges for call in judge.calls) == 600
    assert max(len(call) for judge in judges for call in judge.calls) <= 256


def test_what_ends_while_a_copy_is_busy_travels_together():
    async def scenario() -> list[int]:
        judge = Judge()
        judge.free.clear()
        reward = ModelReward([judge], config())
        first = asyncio.create_task(reward.score(*sample(0)))
        await asyncio.sleep(0.01)
        rest = [asyncio.create_task(reward.score(*sample(i))) for i in range(1, 9)]
        await asyncio.sleep(0.01)
        judge.free.set()
        await asyncio.gather(first, *rest)
        await reward.close()
        return [len(call) for call in judge.calls]

    assert asyncio.run(scenario()) == [1, 8]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_score_that_is_no_number_is_a_failure_of_that_rollout_alone(value):
    results, _ = ask(lambda: [Judge(lambda judged: value if judged[-1] == 1 else 0.5)], range(3))
    assert [type(result) for result in results] == [Score, Failure, Score]
    assert results[1].kind == "reward_invalid"
    assert results[1].message.startswith("reward.model=judge: it gave")


def test_a_model_that_raises_fails_what_it_was_asked_and_is_asked_on():
    def score(judged: Any) -> float:
        raise MemoryError("out of memory")

    results, judges = ask(lambda: [Judge(score)], range(2))
    assert {result.kind for result in results} == {"reward_error"}
    assert "MemoryError: out of memory" in results[0].message
    assert judges[0].calls


def test_a_model_that_hangs_is_a_timeout():
    def hanging() -> list[Any]:
        judge = Judge()
        judge.free.clear()
        return [judge]

    results, _ = ask(hanging, range(2), model_timeout_s=0.05)
    assert {result.kind for result in results} == {"reward_timeout"}
    assert "reward.model_timeout_s=0.05" in results[0].message


def test_a_dead_copy_s_rollouts_go_to_another():
    results, _ = ask(lambda: [dead, Judge()], range(40))
    assert [result.value for result in results] == [float(i) for i in range(40)]


def test_without_a_copy_left_the_run_stops():
    results, _ = ask(lambda: [dead, dead], range(5))
    assert {type(result) for result in results} == {RunError}
    assert str(results[0]) == "reward.model=judge: every worker of it died; resume the run"


def test_a_model_that_reads_text_gets_the_dialogue():
    def score(judged: Any) -> float:
        assert [message["role"] for message in judged] == ["user", "assistant"]
        return float(judged[-1]["content"])

    results, judges = ask(lambda: [Judge(score)], range(3), model_input=ModelInput.text)
    assert [result.value for result in results] == [0.0, 1.0, 2.0]
    assert judges[0].calls[0][0][0] == {"role": "user", "content": "问题 0"}


def test_the_total_is_the_weighted_sum_of_functions_and_model():
    async def scenario() -> list[Any]:
        made = config(functions=["exact"], weights=[2.0], model_weight=0.5)
        reward = TotalReward(made, [Judge(lambda judged: -1.0 if judged[-1] != 3 else float("nan"))])
        await reward.start()
        try:
            return [await asyncio.wait_for(reward.score(*sample(i)), 30) for i in (2, 3)]
        finally:
            await reward.close()

    total, failed = asyncio.run(scenario())
    assert total.value == 2.0 * 1.0 + 0.5 * -1.0
    assert total.parts == {"exact": 1.0, "reward_model": -1.0}
    assert failed.kind == "reward_invalid"

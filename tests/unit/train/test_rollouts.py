"""Collecting a group: seeds, retries, failures, and what the driver gets to know."""

from __future__ import annotations

import asyncio
import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
import xxhash

from rlhf.environments.single_turn import single_turn
from rlhf.train.rollouts import RolloutCollector, rollout_seed
from rlhf.types import Completion, Episode, EpisodeInfo, Failure, Prompt, Rollout, Row, RunError, Sampling, Score, Turn
from tests.unit.train.fakes import make_prompt

PROMPT = make_prompt(7)
REQUESTS = [Sampling(temperature=0.5, max_tokens=4), Sampling(temperature=0.0, max_tokens=4, trained=False)]


@dataclass
class FakeSampler:
    """Answers with as many tokens as it has been asked times; raises what is listed for a call."""

    errors: dict[int, BaseException] = field(default_factory=dict)
    asked: list[tuple[tuple[int, ...], Sampling]] = field(default_factory=list)

    async def generate(self, token_ids: tuple[int, ...], sampling: Sampling) -> Completion:
        self.asked.append((token_ids, sampling))
        number = len(self.asked)
        if number in self.errors:
            raise self.errors[number]
        return Completion(
            token_ids=np.arange(number, dtype=np.int32),
            logprobs=np.full(number, -0.5, dtype=np.float32),
            versions=np.arange(5, 5 + number, dtype=np.int32),
            stop="length",
            text=f"answer {number}",
        )


class FakeRewards:
    def __init__(self, *scores: Score | Failure | BaseException) -> None:
        self.scores, self.asked = list(scores), 0

    async def score(self, prompt: Prompt, rollout: Rollout) -> Score | Failure:
        self.asked += 1
        score = self.scores[self.asked - 1] if self.scores else Score(value=float(len(rollout.token_ids)))
        if isinstance(score, BaseException):
            raise score
        return score


def no_tokenizer() -> Any:
    pytest.fail("a single turn needs no tokenizer")


def make_collector(sampler: FakeSampler, **others: Any) -> RolloutCollector:
    usual = {"environment": single_turn, "rewards": None, "run_seed": 11, "max_attempts": 1, "context_tokens": 32}
    named = {"environment_name": "single_turn", "tokenizer": no_tokenizer}
    return RolloutCollector(sampler=sampler, **{**named, **usual, **others})


def collect(
    sampler: FakeSampler, rewards: FakeRewards, requests: Sequence[Sampling] = REQUESTS, max_attempts: int = 2
) -> tuple[list[Rollout], list[EpisodeInfo]]:
    collector = make_collector(sampler, rewards=rewards, max_attempts=max_attempts)
    return asyncio.run(collector.collect(PROMPT, 3, requests))


def test_seeds_are_hashes_of_what_a_rollout_is():
    assert rollout_seed(11, "p7", 3, 1, 0) == xxhash.xxh3_64_intdigest(b"11/p7/3/1/0") >> 1
    names = [f"p{i}" for i in range(5)] + ["p1/1", "a/1/1"]
    seeds = [
        rollout_seed(run, name, epoch, sample, attempt)
        for run, name, epoch, sample, attempt in itertools.product((0, 1, 12), names, (-1, 0, 1), range(4), range(2))
    ]
    assert len(set(seeds)) == len(seeds) == 3 * 7 * 3 * 4 * 2
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_each_rollout_of_a_group_has_its_own_seed_and_keeps_its_request():
    sampler = FakeSampler()
    collect(sampler, FakeRewards())
    assert [token_ids for token_ids, _ in sampler.asked] == [(3, 4), (3, 4)]
    assert [sampling.seed for _, sampling in sampler.asked] == [rollout_seed(11, "p7", 3, i, 0) for i in range(2)]
    assert [(s.temperature, s.max_tokens, s.trained) for _, s in sampler.asked] == [(0.5, 4, True), (0.0, 4, False)]


def test_a_prompts_set_may_shorten_its_completions():
    for longest, expected in ((3, [3, 3]), (9, [4, 4]), (None, [4, 4])):
        sampler = FakeSampler()
        prompt = replace(PROMPT, max_tokens=longest)
        asyncio.run(make_collector(sampler).collect(prompt, 3, REQUESTS))
        assert [sampling.max_tokens for _, sampling in sampler.asked] == expected


def test_the_driver_gets_to_know_a_rollout_without_its_tokens():
    rollouts, infos = collect(FakeSampler(), FakeRewards())
    for i, (rollout, info) in enumerate(zip(rollouts, infos, strict=True)):
        num_chosen = i + 1
        assert rollout.loss_mask.tolist() == [False, False] + [True] * num_chosen
        answer = {"role": "assistant", "content": f"answer {num_chosen}"}
        assert rollout.turns == (Turn(speaker="policy", start=2, stop=2 + num_chosen, messages=(answer,)),)
        row = Row(group=0, index=i, num_tokens=2 + num_chosen, num_loss_tokens=num_chosen, episode=f"p7/3/{i}")
        assert (info.num_tokens, info.num_loss_tokens) == (2 + num_chosen, num_chosen)
        assert info == EpisodeInfo(
            id=f"p7/3/{i}",
            prompt_id="p7",
            source="rows.jsonl:8",
            rows=(row,),
            score=Score(value=2.0 + num_chosen),
            stop="length",
            versions=(5, 4 + num_chosen),
            trained=i == 0,
        )


def test_an_environment_that_raises_is_played_again_with_another_seed():
    sampler = FakeSampler(errors={1: ValueError("tool broke")})
    (rollout,), (info,) = collect(sampler, FakeRewards(), REQUESTS[:1])
    assert [sampling.seed for _, sampling in sampler.asked] == [rollout_seed(11, "p7", 3, 0, i) for i in range(2)]
    assert rollout.text == "answer 2"
    assert info.score == Score(value=4.0)


def test_an_environment_that_keeps_raising_is_a_failure():
    sampler = FakeSampler(errors={i: ValueError(f"tool broke {i}") for i in range(1, 4)})
    rewards = FakeRewards()
    (rollout,), (info,) = collect(sampler, rewards, REQUESTS[:1], max_attempts=3)
    assert len(sampler.asked) == 3
    assert rewards.asked == 0
    assert isinstance(info.score, Failure)
    assert info.score.kind == "environment"
    assert re.fullmatch(r"ValueError: tool broke 3 \(.*test_rollouts.py:\d+\)", info.score.message)
    assert (info.stop, info.num_tokens, info.num_loss_tokens, info.versions) == ("abort", 2, 0, (-1, -1))
    assert rollout.token_ids.tolist() == [3, 4]
    assert not rollout.loss_mask.any()


def test_a_failed_reward_is_kept_and_the_others_live():
    failure = Failure(kind="reward_invalid", message="nan")
    _, infos = collect(FakeSampler(), FakeRewards(failure, Score(value=1.0)))
    assert [info.score for info in infos] == [failure, Score(value=1.0)]


@pytest.mark.parametrize("where", ["engine", "rewards"])
def test_a_run_error_is_not_retried(where):
    error = RunError("the engine is gone")
    sampler = FakeSampler(errors={1: error} if where == "engine" else {})
    with pytest.raises(RunError, match=r"^the engine is gone$"):
        collect(sampler, FakeRewards(*([error] if where == "rewards" else [])), REQUESTS[:1])
    assert len(sampler.asked) == 1


async def test_cancellation_is_not_a_failure():
    @dataclass
    class Waiting(FakeSampler):
        async def generate(self, token_ids: tuple[int, ...], sampling: Sampling) -> Completion:
            await asyncio.sleep(60)
            raise AssertionError

    collection = asyncio.create_task(make_collector(Waiting()).collect(PROMPT, 3, REQUESTS))
    await asyncio.sleep(0.01)
    collection.cancel()
    with pytest.raises(asyncio.CancelledError):
        await collection


async def test_a_judge_sees_the_group_once_all_its_episodes_have_scores():
    seen: list[list[Score | Failure | None]] = []

    class GroupJudge:
        async def judge(self, prompt: Prompt, episodes: Sequence[Episode]) -> None:
            seen.append([episode.score for episode in episodes])
            for episode in episodes:
                episode.score = Score(value=9.0)

    _, infos = await make_collector(FakeSampler(), judges=[GroupJudge()]).collect(PROMPT, 0, REQUESTS)
    assert seen == [[Score(value=0.0), Score(value=0.0)]]
    assert [info.score for info in infos] == [Score(value=9.0)] * 2

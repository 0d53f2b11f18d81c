"""Ratings of a judge behind a real socket, as a part of the reward of collected groups."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from rlhf.environments.single_turn import single_turn
from rlhf.judges.client import JudgeClient
from rlhf.judges.rubric import RubricJudge
from rlhf.rewards.base import RewardConfig
from rlhf.rewards.judged import JudgedReward, answer_in
from rlhf.train.rollouts import RolloutCollector
from rlhf.types import Completion, EpisodeInfo, Failure, InputError, Prompt, Rollout, RunError, Sampling, Score, Turn
from tests.unit.judges.server import Reply, Server, completion, config, running, verdict

PROMPT = Prompt(
    id="p0",
    messages=[{"role": "user", "content": "2+2?"}],
    token_ids=(1, 2),
    source="f:1",
    meta={"answer": "four"},
)


class Texts:
    """A policy whose n-th completion is the n-th text."""

    def __init__(self, *texts: str) -> None:
        self.texts: Iterator[str] = iter(texts)

    async def generate(self, token_ids: tuple[int, ...], sampling: Sampling) -> Completion:
        one = np.ones(1, dtype=np.int32)
        return Completion(
            token_ids=one, logprobs=one.astype(np.float32), versions=one, stop="stop", text=next(self.texts)
        )


class Function:
    """Rewards in this process."""

    async def score(self, prompt: Prompt, rollout: Rollout) -> Score | Failure:
        if rollout.text == "bad":
            return Failure(kind="reward_error", message="a bug")
        return Score(value=0.5, parts={"exact": 0.5})


def by_answer(replies: Mapping[str, Reply]) -> Callable[[int, Any], Reply]:
    return lambda number, body: replies[re.search(r"<answer-\w+>\n(.*)\n", body["messages"][1]["content"])[1]]


@pytest.fixture
def server() -> Iterator[Server]:
    with running() as each:
        yield each


async def collect(
    server: Server,
    texts: list[str],
    prompt: Prompt = PROMPT,
    *,
    functions: bool = False,
    weight: float = 1.0,
    **keys: Any,
) -> list[EpisodeInfo]:
    settings = RewardConfig(functions=["exact"], judge=config(server.url, **keys), judge_weight=weight)
    client = JudgeClient(settings.judge, None)
    collector = RolloutCollector(
        sampler=Texts(*texts),
        tokenizer=lambda: pytest.fail("a single turn needs no tokenizer"),
        context_tokens=8,
        environment=single_turn,
        environment_name="single_turn",
        rewards=Function() if functions else None,
        run_seed=0,
        max_attempts=1,
        judges=[JudgedReward(RubricJudge(client, settings.judge).rate, settings)],
    )
    try:
        _, infos = await collector.collect(prompt, 0, [Sampling(temperature=1.0, max_tokens=4)] * len(texts))
    finally:
        await client.close()
    return infos


async def test_a_rating_is_a_part_of_the_reward_and_a_failure_is_none(server: Server):
    server.reply = by_answer({"4": verdict(5), "5": verdict(2), "x": completion("I like it: 5"), "y": Reply(400, "no")})
    infos = await collect(server, ["4", "5", "x", "y", "bad"], functions=True, weight=2.0)
    scores = [info.score for info in infos]
    assert scores[:2] == [
        Score(value=2.5, parts={"exact": 0.5, "judge": 1.0}),
        Score(value=1.0, parts={"exact": 0.5, "judge": 0.25}),
    ]
    assert [score.kind for score in scores[2:]] == ["reward_invalid", "reward_error", "reward_error"]
    assert len(server.requests) == 4  # a rollout without a score is not rated


async def test_the_judge_alone(server: Server):
    server.reply = by_answer({"4": verdict(4)})
    (info,) = await collect(server, ["4"])
    assert info.score == Score(value=0.75, parts={"judge": 0.75})
    sent = server.requests[0]["body"]["messages"][1]["content"]
    assert "user: 2+2?" in sent
    assert "four" not in sent


async def test_the_judge_reads_the_rows_answer_if_it_may(server: Server):
    await collect(server, ["4"], shows_reference=True)
    assert re.search(r"<reference-\w+>\nfour\n", server.requests[0]["body"]["messages"][1]["content"])


async def test_a_prompt_set_has_a_weight_of_its_own_or_no_judge(server: Server):
    (with_it,) = await collect(server, ["4"], replace(PROMPT, reward_weights={"judge": 3.0}), functions=True)
    assert with_it.score == Score(value=3.5, parts={"exact": 0.5, "judge": 1.0})
    (measured,) = await collect(server, ["4"], replace(PROMPT, reward_weights={"exact": 1.0, "judge": 0.0}))
    assert measured.score == Score(value=0.0, parts={"judge": 1.0})
    (without,) = await collect(server, ["4"], replace(PROMPT, reward_weights={"exact": 1.0}), functions=True)
    assert without.score == Score(value=0.5, parts={"exact": 0.5})
    assert len(server.requests) == 2


async def test_a_used_up_budget_ends_the_run_and_is_no_reward(server: Server):
    with pytest.raises(RunError, match=r"^reward\.judge\.max_requests=2: .* raise it, and resume the run$"):
        await collect(server, ["1", "2", "3", "4"], max_requests=2)
    assert len(server.requests) == 2


def test_the_judge_reads_all_turns_and_rates_the_last():
    turns = [
        Turn(speaker="policy", start=2, stop=3, messages=({"role": "assistant", "content": "5"},)),
        Turn(speaker="environment", start=3, stop=4, messages=({"role": "user", "content": "Sure?"},)),
        Turn(speaker="policy", start=4, stop=5, messages=({"role": "assistant", "content": "4"},)),
    ]
    ids = np.arange(5, dtype=np.int32)
    row = Rollout(
        prompt_id="p0", token_ids=ids, loss_mask=ids > 1, logprobs=ids * 0.0, versions=ids, stop="stop", text="4",
        turns=tuple(turns),
    )  # fmt: skip
    answer = answer_in(replace(PROMPT, tools=[{"name": "计算"}]), row, shows=False)
    assert [message["role"] for message in answer.dialogue] == ["tools", "user", "assistant", "user"]
    assert json.dumps(answer.dialogue).count("Sure?") == 1
    assert (answer.text, answer.reference) == ("4", None)


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"url": "host:8000"}, "reward.judge.url=host:8000: give an address such as http://host:8000/v1"),
        ({"url": "http://me:pw@host/v1"}, "reward.judge.url holds a user or a password"),
        ({"model": None}, "set reward.judge.model to a model of that server"),
        ({"rubric": " "}, "reward.judge.rubric to a question"),
        ({"lowest": 5}, "reward.judge.lowest=5, reward.judge.highest=5: give the lower one first"),
        ({"temperature": -1.0}, "reward.judge.temperature=-1.0: give 0 or more, or null"),
        ({"concurrency": 0}, "reward.judge.concurrency=0: give at least 1"),
        ({"max_requests": 0}, "reward.judge.max_requests=0: give at least 1"),
        ({"timeout_s": 0.0}, "reward.judge.timeout_s=0.0: give a positive number"),
        ({"requests_per_minute": float("inf")}, "reward.judge.requests_per_minute=inf: give a positive number"),
        ({"prompt_price": -1.0}, "reward.judge.prompt_price=-1.0: give 0 or more"),
        ({"max_cost": 5.0}, "reward.judge.max_cost=5.0: nothing has a price; set reward.judge.prompt_price"),
    ],
)
def test_wrong_keys_are_refused(keys: dict[str, Any], said: str):
    with pytest.raises(InputError) as caught:
        config(**{"url": "http://host/v1", **keys})
    assert said in str(caught.value)
    assert "pw" not in str(caught.value)


def test_a_judge_without_an_address_is_no_silent_choice():
    for keys in ({"judge": config(None)}, {"judge_weight": 0.5}):
        with pytest.raises(InputError, match=r"^reward\.judge\.url is not set, other keys of reward\.judge are"):
            RewardConfig(**keys)
    assert RewardConfig(functions=[], judge=config("http://host/v1")).judge.url == "http://host/v1"


def test_a_key_is_read_from_the_environment_and_never_repeated(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MY_JUDGE", "sk-secret\n")
    key = config("http://host/v1", api_key_env="MY_JUDGE").api_key()
    assert key.get_secret_value() == "sk-secret"
    assert "secret" not in f"{key!r} {key}"
    monkeypatch.setenv("MY_JUDGE", "")
    with pytest.raises(InputError, match=r"api_key_env=MY_JUDGE: this environment variable is not set"):
        config("http://host/v1", api_key_env="MY_JUDGE").api_key()
    with pytest.raises(InputError, match="give the name, not a key") as caught:
        config("http://host/v1", api_key_env="sk-secret").api_key()
    assert "secret" not in str(caught.value)

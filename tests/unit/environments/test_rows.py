"""Rows of an episode: tokens are appended, and each turn is sampled by a seed of its own."""

import asyncio
import dataclasses
from dataclasses import dataclass, field

import numpy as np
import pytest

from rlhf.environments.base import act, append_completion, append_observation, observe, start, unsampled
from rlhf.environments.sampler import EpisodeSampler, turn_seed
from rlhf.types import Completion, Episode, Prompt, Rollout, Sampling, Turn

SAMPLING = Sampling(temperature=0.5, max_tokens=4, seed=7)
PROMPT = Prompt(id="p", messages=[{"role": "user", "content": "2+2="}], token_ids=(3, 4), source="f:1", meta={})
HINT = {"role": "user", "content": "no"}


@dataclass
class Engine:
    """Answers with the number of its calls, twice."""

    asked: list[tuple[tuple[int, ...], Sampling]] = field(default_factory=list)
    stop: str = "stop"

    async def generate(self, token_ids: tuple[int, ...], sampling: Sampling) -> Completion:
        self.asked.append((token_ids, sampling))
        number = len(self.asked)
        return Completion(
            token_ids=np.full(2, number, dtype=np.int32),
            logprobs=np.full(2, -0.25 * number, dtype=np.float32),
            versions=np.array([number, number + 1], dtype=np.int32),
            stop=self.stop,
            text=f"answer {number}",
        )


@dataclass
class Chat(Engine):
    """Encodes a message as its length; a turn that was cut is closed by token 99."""

    def encode(self, messages):
        return tuple(len(message["content"]) for message in messages)

    def encode_turn(self, messages, *, closed):
        return (*(() if closed else (99,)), *self.encode(messages), 50)


async def two_turns(prompt: Prompt, sampler: Chat) -> Rollout:
    row = await act(start(prompt), sampler, SAMPLING)
    return await act(observe(row, sampler, [HINT]), sampler, SAMPLING)


def test_a_row_is_its_turns_end_to_end_and_learns_what_the_policy_chose():
    sampler = Chat()
    row = asyncio.run(two_turns(PROMPT, sampler))
    assert row.token_ids.tolist() == [3, 4, 1, 1, 2, 50, 2, 2]
    assert row.loss_mask.tolist() == [False, False, True, True, False, False, True, True]
    assert row.logprobs.tolist() == [0, 0, -0.25, -0.25, 0, 0, -0.5, -0.5]
    assert row.versions.tolist() == [-1, -1, 1, 2, -1, -1, 2, 3]
    assert (row.stop, row.text) == ("stop", "answer 2")
    assert row.turns == (
        Turn(speaker="policy", start=2, stop=4, messages=({"role": "assistant", "content": "answer 1"},)),
        Turn(speaker="environment", start=4, stop=6, messages=(HINT,)),
        Turn(speaker="policy", start=6, stop=8, messages=({"role": "assistant", "content": "answer 2"},)),
    )
    columns = (row.token_ids, row.loss_mask, row.logprobs, row.versions)
    assert [column.dtype for column in columns] == [np.int32, bool, np.float32, np.int32]
    # The policy read in each turn what it and the environment had written before, token by token.
    assert [token_ids for token_ids, _ in sampler.asked] == [(3, 4), (3, 4, 1, 1, 2, 50)]


def test_a_turn_that_was_cut_is_closed_by_the_environment():
    row = asyncio.run(two_turns(PROMPT, Chat(stop="length")))
    assert row.token_ids.tolist() == [3, 4, 1, 1, 99, 2, 50, 2, 2]
    assert not row.loss_mask[4]


def test_longer_rows_leave_shorter_ones_as_they_were():
    first = append_completion(start(PROMPT), unsampled([7], stop="stop", text="7"))
    second = append_observation(first, [8, 9])
    third = append_completion(second, unsampled([10], stop="length", text="10"))
    for shorter, longer in ((first, second), (second, third)):
        length = len(shorter.token_ids)
        assert longer.token_ids[:length].tolist() == shorter.token_ids.tolist()
        assert longer.turns[: len(shorter.turns)] == shorter.turns
    assert (second.stop, second.text) == ("stop", "7"), "the policy's last turn"
    assert second.turns[1] == Turn(speaker="environment", start=3, stop=5)
    assert start(PROMPT, (5, 6, 7)).token_ids.tolist() == [5, 6, 7]


def no_tokenizer():
    pytest.fail("nothing is encoded")


def test_the_first_turn_has_the_episode_s_seed_and_each_later_one_its_own():
    engine = Engine()
    sampler = EpisodeSampler(engine, no_tokenizer, PROMPT, SAMPLING.temperature)

    async def play() -> None:
        for token_ids in ((3, 4), (3, 4, 5), (3, 4, 5), (3, 4, 6), (3, 4)):
            await sampler.generate(token_ids, SAMPLING)

    asyncio.run(play())
    seeds = [sampling.seed for _, sampling in engine.asked]
    assert seeds[0] == 7
    assert seeds[1] == turn_seed(7, (3, 4, 5), 0)
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert all((s.temperature, s.max_tokens) == (0.5, 4) for _, s in engine.asked)


def test_a_turn_at_another_temperature_than_the_learner_s_is_refused():
    engine = Engine()
    sampler = EpisodeSampler(engine, no_tokenizer, PROMPT, SAMPLING.temperature)
    with pytest.raises(ValueError, match=r"^a turn is sampled at temperature 1, the episode at 0\.5, at which the pol"):
        asyncio.run(sampler.generate((3, 4), dataclasses.replace(SAMPLING, temperature=1.0)))
    assert not engine.asked


def test_seeds_do_not_depend_on_which_branch_came_first():
    def seeds(order: list[tuple[int, ...]]) -> dict[tuple[int, ...], int]:
        engine = Engine()
        sampler = EpisodeSampler(engine, no_tokenizer, PROMPT, SAMPLING.temperature)

        async def play() -> Episode:
            for token_ids in order:
                await sampler.generate(token_ids, SAMPLING)
            return Episode(rows=[])

        asyncio.run(play())
        return {token_ids: sampling.seed for token_ids, sampling in engine.asked}

    assert seeds([(3, 4), (3, 4, 5), (3, 4, 6)]) == seeds([(3, 4), (3, 4, 6), (3, 4, 5)])


def test_messages_go_through_the_chat_template_with_the_prompt_s_tools():
    seen = []

    class Tokenizer:
        name_or_path, chat_template, unk_token_id, eos_token_id = "models/spy", "any", None, None
        bos_token_id = pad_token_id = cls_token_id = sep_token_id = mask_token_id = None

        def apply_chat_template(self, messages, *, tools, **_):
            seen.append((messages, tools))
            return "1"

        def __call__(self, texts, **_):
            return {"input_ids": [[8] for _ in texts]}

    prompt = Prompt(id="p", messages=[], token_ids=(3,), source="f:1", meta={}, tools=[{"name": "f"}])
    assert EpisodeSampler(Engine(), Tokenizer, prompt, SAMPLING.temperature).encode([HINT]) == (8,)
    assert seen == [([HINT], [{"name": "f"}])]


@pytest.mark.parametrize("messages", ["no", HINT], ids=["text", "message"])
def test_a_turn_that_is_no_list_of_messages_is_refused_in_a_sentence(messages):
    with pytest.raises(TypeError, match=r"^observe got .*: give a list of messages, \[{'role': "):
        observe(start(PROMPT), Chat(), messages)

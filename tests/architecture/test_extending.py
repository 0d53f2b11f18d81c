"""The Python of docs/extending.md and of the READMEs runs."""

from __future__ import annotations

import asyncio
import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from rlhf.data.source import SourceConfig
from rlhf.environments.base import unsampled
from rlhf.environments.lookup import find_environment
from rlhf.environments.sampler import EpisodeSampler
from rlhf.lookup import find_function
from rlhf.models.tiny import character_tokenizer
from rlhf.rewards.base import RewardConfig, load_reward
from rlhf.types import Completion, Episode, Prompt, Rollout, Sampling, Score

ROOT = Path(__file__).parents[2]
PAGES = ("docs/extending.md", "README.md", "README.zh.md")
SAID = {
    "my_rewards.py:polite": ({}, {"yes, please": 1.0, "请": 1.0, "no": 0.0}),
    "short_rewards.py:short": ({"max_characters": 4}, {"12": 1.0, "12345": 0.0}),
    "word_rewards.py:KnownWords": ({"words": ["yes"]}, {"yes": 1.0, "yes so": 0.5, "": 0.0}),
}
"""Options of each reward, and texts with their values."""
TOKENIZER = character_tokenizer("0123456789+=")


def files_of(page: str) -> dict[str, str]:
    """Return the files that a page shows, by name."""
    blocks = re.findall(
        r"^```python\n(# /path/to/(\w+\.py)\n.*?)^```", (ROOT / page).read_text(), re.MULTILINE | re.DOTALL
    )
    return {name: code for code, name in blocks}


@pytest.mark.parametrize("page", PAGES)
def test_rewards_run(page, tmp_path):
    for file, code in files_of(page).items():
        (tmp_path / file).write_text(code, encoding="utf-8")
        for name in (name for name in SAID if name.startswith(f"{file}:")):
            options, rewards = SAID[name]
            reward = load_reward(RewardConfig(functions=[f"{tmp_path}/{name}"], options={name: options}))
            for text, value in rewards.items():
                assert reward(prompt(), rollout(text)) == Score(value=value, parts={name: value})


def test_every_reward_is_shown():
    files = ("my_data.py", "my_dialogue.py", "my_engine.py", "my_env.py", "my_format.py", "my_transport.py", "rloo.py")
    assert {name.partition(":")[0] for name in SAID} | {*files} == set(files_of("docs/extending.md"))


def test_the_function_of_a_stage_writes_rows(tmp_path):
    (tmp_path / "my_data.py").write_text(files_of("docs/extending.md")["my_data.py"], encoding="utf-8")
    find_function("function", f"{tmp_path}/my_data.py:write_sums")(tmp_path, largest=2)
    rows = [json.loads(line) for line in (tmp_path / "sums.jsonl").read_text().splitlines()]
    assert rows == [{"prompt": f"{a}+{b}=", "answer": str(a + b)} for a in range(2) for b in range(2)]


def test_the_reader_reads_rows_of_sft_and_prompts(tmp_path):
    (tmp_path / "my_format.py").write_text(files_of("docs/extending.md")["my_format.py"], encoding="utf-8")
    (tmp_path / "sums.tsv").write_text("question\tanswer\n7+5=\t12\n", encoding="utf-8")
    source = SourceConfig(path=f"{tmp_path}/sums.tsv", reader=f"{tmp_path}/my_format.py:read_table")
    assert list(source.rows()) == [(f"{tmp_path}/sums.tsv:row 1", {"prompt": "7+5=", "response": "12", "answer": "12"})]


class Engine:
    """Answers 5, and then 12."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    async def generate(self, token_ids: tuple[int, ...], sampling: Sampling) -> Completion:
        self.asked.append(TOKENIZER.decode(token_ids))
        text = ["5", "12"][len(self.asked) - 1]
        answer = TOKENIZER(text + TOKENIZER.eos_token, add_special_tokens=False)["input_ids"]
        return unsampled(answer, stop="stop", text=text)


def play(tmp_path: Path, file: str, name: str, **options: object) -> tuple[Episode, list[str]]:
    """Return an episode of an environment on the page, and what the policy read."""
    (tmp_path / file).write_text(files_of("docs/extending.md")[file], encoding="utf-8")
    environment, engine = find_environment(f"{tmp_path}/{file}:{name}", options), Engine()
    asked = replace(prompt(), token_ids=tuple(TOKENIZER("7+5=", add_special_tokens=False)["input_ids"]))
    sampler = EpisodeSampler(engine, lambda: TOKENIZER, asked, temperature=1.0)
    return asyncio.run(environment(asked, sampler, Sampling(temperature=1.0, max_tokens=4))), engine.asked


def test_an_environment_gives_a_hint_that_is_not_learnt(tmp_path):
    episode, asked = play(tmp_path, "my_env.py", "two_turns", num_characters=1)
    assert asked == ["7+5=", "7+5=5<eos>1"]
    (row,) = episode.rows
    assert TOKENIZER.decode(row.token_ids) == "7+5=5<eos>112<eos>"
    assert TOKENIZER.decode(row.token_ids[row.loss_mask]) == "5<eos>12<eos>"
    assert [turn.speaker for turn in row.turns] == ["policy", "environment", "policy"]
    assert load_reward(RewardConfig(functions=["exact"]))(prompt(), row) == Score(value=1.0, parts={"exact": 1.0})


def test_an_environment_has_several_rows(tmp_path):
    episode, asked = play(tmp_path, "my_dialogue.py", "AsksAgain", question="+")
    assert asked == ["7+5=", "7+5=5<eos>+"]
    assert [TOKENIZER.decode(row.token_ids) for row in episode.rows] == ["7+5=5<eos>", "7+5=5<eos>+12<eos>"]
    assert [TOKENIZER.decode(row.token_ids[row.loss_mask]) for row in episode.rows] == ["5<eos>", "12<eos>"]


def prompt() -> Prompt:
    return Prompt(
        id="p", messages=[{"role": "user", "content": "7+5="}], token_ids=(1,), source="f:1", meta={"answer": "12"}
    )


def rollout(text: str) -> Rollout:
    arrays = {"token_ids": np.zeros(1, np.int32), "loss_mask": np.ones(1, bool), "logprobs": np.zeros(1, np.float32)}
    return Rollout(prompt_id="p", versions=np.zeros(1, np.int32), stop="stop", text=text, **arrays)

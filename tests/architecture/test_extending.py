"""The Python of docs/extending.md and of the READMEs runs."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

from rlhf.lookup import find_function
from rlhf.rewards.base import RewardConfig, load_reward
from rlhf.types import Prompt, Rollout, Score

ROOT = Path(__file__).parents[2]
PAGES = ("docs/extending.md", "README.md", "README.zh.md")
SAID = {
    "my_rewards.py:polite": ({}, {"yes, please": 1.0, "请": 1.0, "no": 0.0}),
    "short_rewards.py:short": ({"max_characters": 4}, {"12": 1.0, "12345": 0.0}),
    "word_rewards.py:KnownWords": ({"words": ["yes"]}, {"yes": 1.0, "yes so": 0.5, "": 0.0}),
}
"""Options of each reward, and texts with their values."""


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
    assert {name.partition(":")[0] for name in SAID} | {"my_data.py", "rloo.py"} == set(files_of("docs/extending.md"))


def test_the_function_of_a_stage_writes_rows(tmp_path):
    (tmp_path / "my_data.py").write_text(files_of("docs/extending.md")["my_data.py"], encoding="utf-8")
    find_function("function", f"{tmp_path}/my_data.py:write_sums")(tmp_path, largest=2)
    rows = [json.loads(line) for line in (tmp_path / "sums.jsonl").read_text().splitlines()]
    assert rows == [{"prompt": f"{a}+{b}=", "answer": str(a + b)} for a in range(2) for b in range(2)]


def prompt() -> Prompt:
    return Prompt(
        id="p", messages=[{"role": "user", "content": "7+5="}], token_ids=(1,), source="f:1", meta={"answer": "12"}
    )


def rollout(text: str) -> Rollout:
    arrays = {"token_ids": np.zeros(1, np.int32), "loss_mask": np.ones(1, bool), "logprobs": np.zeros(1, np.float32)}
    return Rollout(prompt_id="p", versions=np.zeros(1, np.int32), stop="stop", text=text, **arrays)

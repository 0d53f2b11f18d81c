"""The Python of docs/extending.md and of the READMEs runs."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

from rlhf.config import OnlineConfig, compose
from rlhf.lookup import find_function
from rlhf.rewards.base import RewardConfig, load_reward
from rlhf.types import Failure, Group, Prompt, Reference, Rollout, RolloutInfo, Sampling, Score

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


def test_the_algorithm_is_a_short_file_and_rloo(tmp_path):
    (tmp_path / "rloo.py").write_text(files_of("docs/extending.md")["rloo.py"], encoding="utf-8")
    assert len((tmp_path / "rloo.py").read_text().splitlines()) <= 40
    needed = ["model=m", "output=o", "data.path=p", f"algorithm={tmp_path}/rloo.py:RLOOConfig"]
    sampling = Sampling(temperature=1.0, max_tokens=4)
    for limit in (None, 0.5):
        value = "null" if limit is None else str(limit)
        words = [*needed, "algorithm.group_size=5", f"algorithm.max_advantage={value}"]
        algorithm = compose(ROOT / "conf", "online", words, OnlineConfig).algorithm.build(sampling)
        assert algorithm.requests(prompt()) == [sampling] * 5
        rewards = [0.3, None, -1.2, 2.0, 0.0]  # None: a failure, which is in no baseline
        survivors = [reward for reward in rewards if reward is not None]
        expected = []
        for i, reward in enumerate(survivors):
            others = [survivors[j] for j in range(len(survivors)) if j != i]
            advantage = reward - sum(others) / len(others)
            expected.append(advantage if limit is None else max(-limit, min(limit, advantage)))
        assert algorithm.group_advantages(group(rewards)) == pytest.approx(expected, abs=1e-12)
        assert [algorithm.admits(group(some)) for some in ([1.0, 1.0], [1.0, None])] == [True, False]


def group(rewards: list[float | None]) -> Group:
    """Return a group with these rewards; None is a failure."""
    failed = Failure(kind="reward_timeout", message="10 s")
    infos = [
        RolloutInfo(
            id=f"p/0/{i}",
            prompt_id="p",
            source="f:1",
            num_tokens=2,
            num_loss_tokens=1,
            score=failed if reward is None else Score(value=reward),
            stop="stop",
            versions=(0, 0),
            trained=True,
        )
        for i, reward in enumerate(rewards)
    ]
    return Group(prompt=prompt(), rollouts=Reference(None), infos=infos)


def prompt() -> Prompt:
    return Prompt(
        id="p", messages=[{"role": "user", "content": "7+5="}], token_ids=(1,), source="f:1", meta={"answer": "12"}
    )


def rollout(text: str) -> Rollout:
    arrays = {"token_ids": np.zeros(1, np.int32), "loss_mask": np.ones(1, bool), "logprobs": np.zeros(1, np.float32)}
    return Rollout(prompt_id="p", versions=np.zeros(1, np.int32), stop="stop", text=text, **arrays)

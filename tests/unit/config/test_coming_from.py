"""The tables of docs/coming_from.md name keys that exist, and its reward functions work."""

from __future__ import annotations

import re
import sys
import types
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from rlhf.config import ALGORITHMS, DATA
from rlhf.rewards.base import RewardConfig, load_reward
from rlhf.types import Prompt, Rollout, Score
from tests.known_keys import TRAINING_KEYS, exists

ROOT = Path(__file__).parents[3]
TEXT = (ROOT / "docs/coming_from.md").read_text(encoding="utf-8")
GROUPS = ("algorithm", "data", "reward")


def rows() -> Iterator[dict[str, str]]:
    """The tables' rows, by the names of their columns."""
    for table in re.findall(r"(?:^\|.*\n)+", TEXT, re.MULTILINE):
        header, _, *lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines()]
        for line in lines:
            yield dict(zip(header, line, strict=True))


def named_here() -> list[tuple[str, str]]:
    """What the columns called `here` say in code outside parentheses: keys, each with the value set, or ''."""
    cells = [re.sub(r"\(.*?\)", "", row["here"]) for row in rows() if "here" in row]
    found = [code.partition("=") for cell in cells for code in re.findall(r"`([^`]+)`", cell)]
    return sorted({(key.removeprefix("+"), value) for key, _, value in found})


def test_every_key_exists():
    assert len(named_here()) > 50
    missing = sorted({key for key, _ in named_here() if not exists(key, TRAINING_KEYS)})
    assert not missing


def test_every_choice_exists():
    choices = {"algorithm": set(ALGORITHMS)}
    choices |= {group: {path.stem for path in (ROOT / "conf" / group).glob("*.yaml")} for group in ("data", "reward")}
    choices["data"] |= set(DATA)
    chosen = [(key, value) for key, value in named_here() if key in GROUPS]
    assert {key for key, _ in chosen} == set(GROUPS)
    assert not [f"{key}={value}" for key, value in chosen if value not in choices[key]]


def test_every_row_says_something():
    for row in rows():
        assert all(row[name] for name in row if name not in ("older",)), row


def test_a_key_that_is_none_is_found():
    assert exists("reward.options.http.url", TRAINING_KEYS)
    assert exists("optimizer.lr", TRAINING_KEYS)
    assert not exists("optimizer.learning_rate", TRAINING_KEYS)
    assert not exists("algorithm.optimizer", TRAINING_KEYS)


ADAPTED = {
    "compute_score": lambda data_source, solution_str, ground_truth, extra_info: (
        data_source == "sums" and solution_str == ground_truth and extra_info == {"split": "train"}
    ),
    "reward_func": lambda queries, prompts, labels: {
        "rewards": np.array(
            [float(query == f"{p}{label}") for query, p, label in zip(queries, prompts, labels, strict=True)]
        )
    },
    "reward_fn": lambda samples, prompts, outputs, **columns: [
        float(sample == f"{p}{said}" and said == "七")
        for sample, p, said in zip(samples, prompts, outputs, strict=True)
    ],
    "reward_function": lambda prompts, completions, answer, **columns: [
        float(c[-1]["content"] == a) for c, a in zip(completions, answer, strict=True)
    ],
}


@pytest.mark.parametrize("name", ADAPTED)
def test_the_reward_functions_work(name, tmp_path, monkeypatch):
    (block,) = [code for code in re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL) if f"import {name}\n" in code]
    monkeypatch.setitem(sys.modules, "my_package", types.SimpleNamespace(**{name: ADAPTED[name]}))
    (tmp_path / "mine.py").write_text(block, encoding="utf-8")
    reward = load_reward(RewardConfig(functions=[f"{tmp_path}/mine.py:reward"]))
    meta = {
        "data_source": "sums",
        "reward_model": {"ground_truth": "七"},
        "extra_info": {"split": "train"},
        "answer": "七",
    }
    prompt = Prompt(id="p", messages=[{"role": "user", "content": "三加四"}], token_ids=(1,), source="d:1", meta=meta)
    for text, value in (("七", 1.0), ("八", 0.0)):
        empty = {"token_ids": np.zeros(1, np.int32), "loss_mask": np.ones(1, bool), "logprobs": np.zeros(1, np.float32)}
        rollout = Rollout(prompt_id="p", versions=np.zeros(1, np.int32), stop="stop", text=text, **empty)
        assert reward(prompt, rollout) == Score(value=value, parts={"mine.py:reward": value})

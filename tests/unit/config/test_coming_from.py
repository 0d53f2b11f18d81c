"""The tables of docs/coming_from.md name keys that exist, and its reward functions work."""

from __future__ import annotations

import dataclasses
import re
import sys
import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hydra.core.config_store import ConfigStore
from omegaconf import OmegaConf

from rlhf.config import DATA, OnlineConfig, PreferenceRunConfig, RewardModelRunConfig, SFTRunConfig
from rlhf.rewards.base import RewardConfig, load_reward
from rlhf.types import Prompt, Rollout, Score

ROOT = Path(__file__).parents[3]
TEXT = (ROOT / "docs/coming_from.md").read_text(encoding="utf-8")
GROUPS = ("algorithm", "data", "reward")


def algorithms() -> dict[str, type[Any]]:
    """The registered methods' dataclasses by name: `algorithm=grpo`."""
    store = ConfigStore.instance()
    names = [name.removesuffix(".yaml") for name in store.list("algorithm")]
    return {name: OmegaConf.get_type(store.load(f"algorithm/{name}.yaml").node) for name in names}


def dataclass_in(annotation: Any) -> type[Any] | None:
    """`CriticConfig` of `CriticConfig | None`."""
    choices = typing.get_args(annotation) if isinstance(annotation, types.UnionType) else (annotation,)
    return next((choice for choice in choices if dataclasses.is_dataclass(choice)), None)


def keys_of(schema: type[Any], prefix: str = "") -> Iterator[str]:
    """Every key of a configuration; `reward.options.*` stands for whatever is in a free dictionary."""
    for name, annotation in typing.get_type_hints(schema).items():
        key = f"{prefix}{name}"
        yield key
        if typing.get_origin(annotation) is dict:
            yield f"{key}.*"
        elif nested := dataclass_in(annotation):
            yield from keys_of(nested, f"{key}.")


RUNS = (OnlineConfig, SFTRunConfig, RewardModelRunConfig, PreferenceRunConfig)
KNOWN = {key for schema in RUNS for key in keys_of(schema)}
KNOWN |= {f"data.{key}" for schema in DATA.values() for key in keys_of(schema)}
KNOWN |= {f"algorithm.{key}" for schema in algorithms().values() for key in keys_of(schema)}


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


def exists(key: str) -> bool:
    return key in KNOWN or any(known.endswith("*") and key.startswith(known[:-1]) for known in KNOWN)


def test_every_key_exists():
    assert len(named_here()) > 50
    missing = sorted({key for key, _ in named_here() if not exists(key)})
    assert not missing


def test_every_choice_exists():
    choices = {"algorithm": set(algorithms())}
    choices |= {group: {path.stem for path in (ROOT / "conf" / group).glob("*.yaml")} for group in ("data", "reward")}
    chosen = [(key, value) for key, value in named_here() if key in GROUPS]
    assert {key for key, _ in chosen} == set(GROUPS)
    assert not [f"{key}={value}" for key, value in chosen if value not in choices[key]]


def test_every_row_says_something():
    for row in rows():
        assert all(row[name] for name in row if name not in ("older",)), row


def test_a_key_that_is_none_is_found():
    assert exists("reward.options.http.url")
    assert exists("optimizer.lr")
    assert not exists("optimizer.learning_rate")
    assert not exists("algorithm.optimizer")


ADAPTED = {
    "compute_score": lambda data_source, solution_str, ground_truth, extra_info: (
        data_source == "sums" and solution_str == ground_truth and extra_info == {"split": "train"}
    ),
    "reward_func": lambda queries, prompts, labels: {
        "rewards": np.array(
            [float(query == f"{p}{label}") for query, p, label in zip(queries, prompts, labels, strict=True)]
        )
    },
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

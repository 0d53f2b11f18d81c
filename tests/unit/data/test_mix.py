"""Prompts of several sets, from a configuration."""

import re
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from rlhf.data.mix import load_sets
from rlhf.data.prompts import PromptDataConfig, PromptSetConfig
from rlhf.types import InputError

ROOM = {"context_tokens": 200, "max_completion_tokens": 50}


def sets(tmp_path, write_rows, **numbers):
    """A file of the same name for each set, with so many rows."""
    paths = {}
    for name, number in numbers.items():
        (tmp_path / name).mkdir()
        source = write_rows(*({"prompt": f"{name}{i}", "answer": i} for i in range(number)))
        paths[name] = str((tmp_path / name / "rows.jsonl").absolute())
        (tmp_path / name / "rows.jsonl").write_bytes(Path(source).read_bytes())
    return paths


def test_sets_come_in_turn_with_ids_rewards_and_limits_of_their_own(tmp_path, write_rows, bytes_tokenizer):
    paths = sets(tmp_path, write_rows, a=3, b=1)
    config = PromptDataConfig(
        sets={
            "a": PromptSetConfig(path=paths["a"], limit=2, reward={"exact": 2.0}, max_tokens=5),
            "b": PromptSetConfig(path=paths["b"], answer_key=None, weight=0.5),
        }
    )
    prompts = load_sets(config, bytes_tokenizer, **ROOM)
    assert [prompt.id for prompt in prompts] == ["a-1", "b-1", "a-2"]
    assert [prompt.data_set for prompt in prompts] == ["a", "b", "a"]
    assert [(prompt.reward_weights, prompt.max_tokens) for prompt in prompts[:2]] == [({"exact": 2.0}, 5), (None, None)]
    assert prompts[0].source == f"{paths['a']}:1"
    assert config.weights == {"a": 1.0, "b": 0.5}


def test_one_file_has_no_set(write_rows, bytes_tokenizer):
    config = PromptDataConfig(path=write_rows({"prompt": "q", "answer": "a"}))
    (prompt,) = load_sets(config, bytes_tokenizer, **ROOM)
    assert (prompt.id, prompt.data_set, prompt.reward_weights, prompt.max_tokens) == ("rows-1", "", None, None)
    assert config.weights == {"": 1.0}


def test_a_shorter_limit_leaves_room_for_a_longer_prompt(tmp_path, write_rows, bytes_tokenizer):
    paths = sets(tmp_path, write_rows, a=1)
    prompt = load_sets(PromptDataConfig(sets={"a": PromptSetConfig(path=paths["a"])}), bytes_tokenizer, **ROOM)[0]
    room = {"context_tokens": len(prompt.token_ids) + 5, "max_completion_tokens": 50}
    short = PromptDataConfig(sets={"a": PromptSetConfig(path=paths["a"], max_tokens=5)})
    assert len(load_sets(short, bytes_tokenizer, **room)) == 1
    longer = PromptDataConfig(sets={"a": PromptSetConfig(path=paths["a"], max_tokens=6)})
    with pytest.raises(InputError, match=r"^data.sets.a: .*rows.jsonl:1: the prompt's .* tokens and a completion of 6"):
        load_sets(longer, bytes_tokenizer, **room)
    with pytest.raises(InputError, match=r"^data.sets.a.max_tokens=51: sampling.max_tokens=50 is the most that any"):
        load_sets(
            PromptDataConfig(sets={"a": PromptSetConfig(path=paths["a"], max_tokens=51)}), bytes_tokenizer, **ROOM
        )


def test_a_set_without_rows_is_named(tmp_path, bytes_tokenizer):
    (tmp_path / "none.jsonl").touch()
    config = PromptDataConfig(sets={"a": PromptSetConfig(path=str(tmp_path / "none.jsonl"))})
    with pytest.raises(InputError, match=r"^data.sets.a: .*none.jsonl holds no rows"):
        load_sets(config, bytes_tokenizer, **ROOM)


@pytest.mark.parametrize(
    ("keys", "sentence"),
    [
        ({"sets": {"a": {"weight": 0}, "b": {"weight": 0.0}}}, "data.sets: the weights of a, b sum to 0; give"),
        ({"sets": {"a": {"weight": -1}}}, "data.sets.a.weight=-1.0: give 0 or more"),
        ({"sets": {"a": {"weight": "inf"}}}, "data.sets.a.weight=inf: give 0 or more"),
        ({"sets": {"a": {"reward": {"exact": 0.0}}}}, "data.sets.a.reward={'exact': 0.0}: no reward scores the set"),
        ({"sets": {"a": {"max_tokens": 0}}}, "max_tokens=0 leaves nothing"),
        ({"sets": {"a.b": {}}}, "data.sets.a.b: name a set with letters, digits, _ and -, and not like a metric"),
        ({"sets": {"train": {}}}, "data.sets.train: name a set with letters, digits, _ and -, and not like a metric"),
        ({"sets": {"a": {}}, "path": "rows.jsonl"}, "data.path=rows.jsonl: with data.sets each set has its own; set"),
        ({"sets": {"a": {}}, "prompt_key": "q"}, "data.prompt_key=q: with data.sets each set has its own; set "
         "data.sets.NAME.prompt_key, and leave this one out"),
    ],
)  # fmt: skip
def test_bad_sets_are_refused_in_one_sentence(keys, sentence):
    given = {"path": "", **keys, "sets": {name: {"path": "x.jsonl", **each} for name, each in keys["sets"].items()}}
    config = OmegaConf.merge(OmegaConf.structured(PromptDataConfig), given)
    with pytest.raises(InputError, match=f"^{re.escape(sentence)}"):
        OmegaConf.to_object(config)

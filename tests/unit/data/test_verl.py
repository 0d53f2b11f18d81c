"""Files as veRL's own scripts write them (examples/data_preprocess/gsm8k.py at 1dda039) load unchanged."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pandas
import pyarrow
import pyarrow.parquet
import pytest
from transformers import PreTrainedTokenizerFast

from rlhf.config import OnlineConfig, compose
from rlhf.data.prompts import load_prompts
from rlhf.data.supervised import SupervisedDataConfig
from rlhf.types import InputError, Prompt

CONF = Path(__file__).parents[3] / "conf"


def row(question: str, ground_truth: Any, index: int) -> dict[str, Any]:
    return {
        "data_source": "openai/gsm8k",
        "prompt": [{"role": "user", "content": question}],
        "ability": "math",
        "reward_model": {"style": "rule", "ground_truth": ground_truth},
        "extra_info": {"split": "train", "index": index, "answer": f"so #### {ground_truth}", "question": question},
    }


ROWS = [row("What is 12 + 30?", "42", 0), row("小明有三个苹果，又买了四个，一共多少个？", "7", 1)]


def written_by_datasets(rows: list[dict[str, Any]], folder: Path) -> Path:
    datasets.Dataset.from_list(rows).to_parquet(str(folder / "train.parquet"))
    return folder / "train.parquet"


def written_by_pandas(rows: list[dict[str, Any]], folder: Path) -> Path:
    pandas.DataFrame(rows).to_parquet(folder / "train.parquet")
    return folder / "train.parquet"


def written_by_pyarrow(rows: list[dict[str, Any]], folder: Path) -> Path:
    """Large strings, and a dictionary-encoded column."""
    table = pyarrow.Table.from_pylist(rows)
    source = table["data_source"].cast(pyarrow.large_string()).dictionary_encode()
    table = table.set_column(0, "data_source", source)
    pyarrow.parquet.write_table(table, folder / "train.parquet")
    return folder / "train.parquet"


def saved_as_numpy(rows: list[dict[str, Any]], folder: Path) -> Path:
    datasets.Dataset.from_list(rows).with_format("numpy").save_to_disk(str(folder / "saved"))
    return folder / "saved"


WRITERS = [written_by_datasets, written_by_pandas, written_by_pyarrow, saved_as_numpy]


def load(path: Path, tokenizer: PreTrainedTokenizerFast, *overrides: str) -> list[Prompt]:
    """As `launch/ppo.py data=verl data.path=...` does."""
    given = ["data=verl", f"data.path={path}", "model=m", "output=o"]
    config = compose(CONF, "online", [*given, *overrides], OnlineConfig)
    return load_prompts(config.data, tokenizer, context_tokens=400, max_completion_tokens=50)


@pytest.mark.parametrize("write", WRITERS)
def test_rows_load_as_they_are(tmp_path, bytes_tokenizer, write: Callable[..., Path]):
    prompts = load(write(ROWS, tmp_path), bytes_tokenizer)
    assert [prompt.messages for prompt in prompts] == [row["prompt"] for row in ROWS]
    for prompt, given in zip(prompts, ROWS, strict=True):
        others = {key: value for key, value in given.items() if key != "prompt"}
        assert prompt.meta == {**others, "answer": given["reward_model"]["ground_truth"]}
    assert "小明有三个苹果" in bytes_tokenizer.decode(prompts[1].token_ids)


@pytest.mark.parametrize("write", WRITERS)
@pytest.mark.parametrize(("ground_truth", "answer"), [(42, "42"), (2.5, "2.5")])
def test_a_number_is_an_answer(tmp_path, bytes_tokenizer, write, ground_truth, answer):
    (prompt,) = load(write([row("q", ground_truth, 0)], tmp_path), bytes_tokenizer)
    assert prompt.meta["answer"] == answer
    assert prompt.meta["reward_model"]["ground_truth"] == ground_truth


@pytest.mark.parametrize(
    ("ground_truth", "kind"), [(["42", "forty-two"], "a list"), ({"target": ["42"]}, "an object"), (None, "null")]
)
def test_any_other_ground_truth_is_for_a_reward_of_your_own(tmp_path, bytes_tokenizer, ground_truth, kind):
    path = written_by_datasets([row("q", ground_truth, 0)], tmp_path)
    sentence = f"{path}:row 1: the field 'reward_model.ground_truth' is {kind}, not text or a number: set answer_key to"
    with pytest.raises(InputError, match=re.escape(sentence)):
        load(path, bytes_tokenizer)
    (prompt,) = load(path, bytes_tokenizer, "data.answer_key=null")
    assert prompt.meta["reward_model"] == {"style": "rule", "ground_truth": ground_truth}


def test_keys_of_other_rows_messages_are_no_obstacle(tmp_path, bytes_tokenizer):
    """Parquet gives every message the keys of all of them, null where a message has none."""
    named = row("q", "1", 0)
    named["prompt"].insert(0, {"role": "system", "content": "一步一步想。", "name": None, "tool_calls": None})
    path = written_by_datasets([named, ROWS[0]], tmp_path)
    assert pyarrow.parquet.read_table(path)["prompt"].to_pylist()[1][0].keys() > {"role", "content"}
    prompts = load(path, bytes_tokenizer)
    assert prompts[0].messages == [
        {"role": "system", "content": "一步一步想。"},
        {"role": "user", "content": "q"},
    ]


@pytest.mark.parametrize(
    ("change", "key", "sentence"),
    [
        ({}, "reward_model.answer",
         "the field 'reward_model' has no field 'answer', its fields are 'style', 'ground_truth': set answer_key to"),
        ({}, "reward.ground_truth", "the row has no field 'reward', its fields are 'data_source', 'prompt', "),
        ({}, "ability.name", "the field 'ability' is text, not an object with a 'name' in it: set answer_key to"),
        ({"reward_model": None}, "reward_model.ground_truth",
         "the field 'reward_model' is null, not an object with a 'ground_truth' in it: set answer_key to"),
    ],
)  # fmt: skip
def test_the_part_that_is_missing_is_named(tmp_path, bytes_tokenizer, change, key, sentence):
    path = written_by_pyarrow([ROWS[0] | change, ROWS[1]], tmp_path)
    with pytest.raises(InputError, match=re.escape(f"{path}:row 1: {sentence}")):
        load(path, bytes_tokenizer, f"data.answer_key={key}")


def test_a_field_with_that_very_name_wins(tmp_path, bytes_tokenizer):
    path = written_by_datasets([ROWS[0] | {"reward_model.ground_truth": "literal"}], tmp_path)
    assert load(path, bytes_tokenizer)[0].meta["answer"] == "literal"


def test_the_same_rows_are_supervised_ones(tmp_path, bytes_tokenizer):
    """veRL: data.prompt_key=extra_info data.prompt_dict_keys=[question]."""
    path = str(written_by_datasets(ROWS, tmp_path))
    config = SupervisedDataConfig(path=path, prompt_key="extra_info.question", response_key="extra_info.answer")
    units = config.load(bytes_tokenizer, context_tokens=400, quarantine=config.quarantine())
    learned = [bytes_tokenizer.decode(row.token_ids[row.loss_mask]) for (row,) in units]
    assert learned == ["so #### 42<|im_end|>", "so #### 7<|im_end|>"]

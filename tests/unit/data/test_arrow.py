"""Rows out of Arrow: nulls that it adds, splits and configurations, and what cannot be read."""

import gzip
import json
import re
from pathlib import Path

import datasets
import pyarrow
import pyarrow.parquet
import pytest

from rlhf.data.arrow import without_padding
from rlhf.data.files import read_rows
from rlhf.data.preferences import PreferenceDataConfig
from rlhf.data.prompts import PromptDataConfig, load_prompts
from rlhf.data.quarantine import BadRows, Quarantine
from rlhf.data.supervised import SupervisedDataConfig
from rlhf.types import InputError
from tests.unit.data.test_supervised import CALLS_TOOLS, assistant, learned, user


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    datasets.disable_progress_bars()


def calling(name, **arguments):
    call = {"type": "function", "function": {"name": name, "arguments": arguments}}
    return {"messages": [user("q"), {"role": "assistant", "tool_calls": [call]}]}


ROWS = [calling("weather", city="罗马"), calling("add", a=1, b=[{"x": 2}, {"y": None}])]


def as_parquet(folder: Path) -> str:
    path = str(folder / "rows.parquet")
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), path)
    return path


def as_saved(folder: Path) -> str:
    path = str(folder / "saved")
    datasets.Dataset(pyarrow.Table.from_pylist(ROWS)).save_to_disk(path)
    return path


@pytest.mark.parametrize("write", [as_parquet, as_saved])
def test_nulls_that_arrow_adds_are_never_learnt(tmp_path, byte_level, write):
    tokenizer = byte_level(CALLS_TOOLS)
    config = SupervisedDataConfig(path=write(tmp_path))
    units = config.load(tokenizer, context_tokens=400, quarantine=config.quarantine())
    assert [learned(tokenizer, row) for (row,) in units] == [
        '[weather {"city": "罗马"}]<|im_end|>', '[add {"a": 1, "b": [{"x": 2}, {}]}]<|im_end|>',
    ]  # fmt: skip


def write_folder(folder: Path, **files: object) -> str:
    folder.mkdir(exist_ok=True)
    for name, content in files.items():
        data = content if isinstance(content, bytes) else str(content).encode()
        (folder / name.replace("_", ".")).write_bytes(data)
    return str(folder)


def jsonl(*rows):
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def test_nulls_that_the_user_wrote_stay(tmp_path, byte_level):
    """In JSONL, also in a folder that datasets loads, which keeps objects that differ as JSON, and in JSON text."""
    tokenizer = byte_level(CALLS_TOOLS)
    rows = [calling("f", x=None), calling("g", y=1)]
    text = [{"messages": [user("q"), {"role": "assistant", "tool_calls": [
        {"function": {"name": name, "arguments": json.dumps(arguments)}}]}]}
        for name, arguments in [("f", {"x": None}), ("g", {"y": 1})]]  # fmt: skip
    paths = [
        write_folder(tmp_path / "folder", train_jsonl=jsonl(*rows)),
        str(tmp_path / "folder" / "train.jsonl"),
        str(tmp_path / "text.parquet"),
        str(tmp_path / "json.parquet"),
    ]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(text), paths[2])
    datasets.load_dataset(paths[0], split="train").to_parquet(paths[3])
    for path in paths:
        config = SupervisedDataConfig(path=path)
        units = config.load(tokenizer, context_tokens=400, quarantine=config.quarantine())
        assert [learned(tokenizer, row) for (row,) in units] == [
            '[f {"x": null}]<|im_end|>', '[g {"y": 1}]<|im_end|>',
        ]  # fmt: skip


def test_rewards_get_the_row_as_it_is(tmp_path, bytes_tokenizer):
    rows = [{"prompt": "q", "answer": "1", "info": {"a": 1}}, {"prompt": "q", "answer": "1", "info": {"b": 2}}]
    path = str(tmp_path / "rows.parquet")
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    prompts = load_prompts(PromptDataConfig(path=path), bytes_tokenizer, context_tokens=99, max_completion_tokens=9)
    assert prompts[0].meta["info"] == {"a": 1, "b": None}
    _, row = next(read_rows(path))
    assert without_padding(row)["info"] == {"a": 1}


def test_a_grade_that_pandas_lost_never_wins(tmp_path, bytes_tokenizer):
    grades = {"five": 5.0, "missing": float("nan"), "nine": 9.0}
    row = {"prompt": "q", "completions": [{"response": text, "overall_score": grade} for text, grade in grades.items()]}
    path = str(tmp_path / "rows.parquet")
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([row]), path)
    config = PreferenceDataConfig(path=path)
    with pytest.raises(InputError, match=":row 1: completion 2 has a 'overall_score' that is nan, not a finite number"):
        config.load(bytes_tokenizer, context_tokens=99, quarantine=config.quarantine())
    quarantine = Quarantine(BadRows.quarantine, 1.0)
    assert config.load(bytes_tokenizer, context_tokens=99, quarantine=quarantine) == []
    quarantine.write(tmp_path)

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is no JSON")

    line = json.loads((tmp_path / "rejects.jsonl").read_text(), parse_constant=refuse)
    assert (line["defect"], line["row"]) == ("malformed", str(row))


def test_the_split_of_what_was_saved(tmp_path):
    plain, named = datasets.Dataset.from_list([{"n": 1}]), datasets.Dataset.from_list([{"n": 2}], split="validation")
    for name, dataset in (("plain", plain), ("named", named)):
        dataset.save_to_disk(str(tmp_path / name))
    assert [row for _, row in read_rows(f"{tmp_path}/named", "validation")] == [{"n": 2}]
    assert [row for _, row in read_rows(f"{tmp_path}/named", "train")] == [{"n": 2}]
    with pytest.raises(InputError, match=r"^split=test: .*named was saved with one split, 'validation'; set split=val"):
        list(read_rows(f"{tmp_path}/named", "test"))
    with pytest.raises(InputError, match=r"^split=test: .*plain was saved with no splits; set split=train"):
        list(read_rows(f"{tmp_path}/plain", "test"))
    with pytest.raises(InputError, match=r"^subset=main: .*plain was saved by datasets and has no configurations; set"):
        list(read_rows(f"{tmp_path}/plain", subset="main"))


def test_a_file_has_neither_split_nor_subset(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text(jsonl({"n": 1}))
    with pytest.raises(InputError, match=r"^split=test, subset=null: .*rows.jsonl has neither; set split=train and"):
        read_rows(str(path), "test")
    with pytest.raises(InputError, match=r"^split=train, subset=main: .*rows.jsonl has neither; set split=train and"):
        read_rows(str(path), subset="main")
    config = SupervisedDataConfig(path="folder", split="test", subset="main")
    assert (config.at(str(path)).split, config.at(str(path)).subset) == ("train", None)
    assert (config.at("other").split, config.at("other").subset) == ("test", "main")


def test_configurations_are_chosen_or_listed(tmp_path):
    configs = [{"config_name": "main", "data_files": "m.jsonl"}, {"config_name": "socratic", "data_files": "s.jsonl"}]
    card = f"---\nconfigs: {json.dumps(configs)}\n---\n"
    path = write_folder(tmp_path / "gsm", README_md=card, m_jsonl=jsonl({"n": 1}), s_jsonl=jsonl({"n": 2}))
    assert [row for _, row in read_rows(path, subset="socratic")] == [{"n": 2}]
    with pytest.raises(InputError, match="gsm has several configurations, main, socratic: set subset to one of them"):
        list(read_rows(path))
    with pytest.raises(InputError, match=r"^subset=x: .*gsm has only main, socratic; set subset to one of them, or to"):
        list(read_rows(path, subset="x"))


SCRIPT = "import datasets\n"
BROKEN = {
    "script": ({"script_py": SCRIPT, "train_jsonl": jsonl({"n": 1})}, "Dataset scripts are no longer supported"),
    "parquet": ({"train_parquet": b"PAR1 and no more"}, "Parquet magic bytes not found"),
    "gz": ({"train_jsonl_gz": gzip.compress(jsonl(*[{"n": i} for i in range(99)]).encode())[:60]},
           "Compressed file ended before"),
    "no gz": ({"train_jsonl_gz": b"not compressed"}, "Not a gzipped file"),
    "zip": ({"train_zip": b"PK\x03\x04broken"}, "File is not a zip file"),
}  # fmt: skip


@pytest.mark.parametrize("kind", BROKEN)
def test_a_script_or_a_broken_archive_is_one_sentence(tmp_path, kind):
    files, reason = BROKEN[kind]
    path = write_folder(tmp_path / "script", **files)
    with pytest.raises(InputError) as caught:
        list(read_rows(path))
    sentence = str(caught.value)
    assert re.match(rf"{path} cannot be loaded by datasets with split=train \(.*{reason}", sentence)
    assert sentence.endswith("give a .jsonl file, a .parquet file or a folder that datasets can load")
    assert "\n" not in sentence


def test_an_image_that_cannot_be_decoded_is_one_sentence(tmp_path):
    features = datasets.Features({"prompt": datasets.Value("string"), "shown": datasets.Image()})
    rows = {"prompt": ["q"], "shown": [{"bytes": b"no image", "path": None}]}
    datasets.Dataset.from_dict(rows, features=features).save_to_disk(str(tmp_path / "images"))
    with pytest.raises(InputError, match=r"images:row 1: its column shown cannot be decoded \(.*\): remove the column"):
        list(read_rows(str(tmp_path / "images")))


def test_an_assistant_s_turn_keeps_its_keys(tmp_path, bytes_tokenizer):
    """A struct without nulls is as it was written."""
    path = str(tmp_path / "rows.parquet")
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([{"messages": [user("q"), assistant("a")]}]), path)
    _, row = next(read_rows(path))
    assert without_padding(row) == row

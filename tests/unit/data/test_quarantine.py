"""Bad rows stop a run, or are left out, counted, written down, and few."""

import json
import re

import pytest

from rlhf.data.quarantine import BadRows, Quarantine
from rlhf.data.supervised import RowFormat, SupervisedDataConfig
from rlhf.types import InputError

GOOD = {"prompt": "你好", "response": "hello"}


def load(path, tokenizer, **settings):
    config = SupervisedDataConfig(path=str(path), format=RowFormat.prompt_response, **settings)
    quarantine = config.quarantine()
    return config.load(tokenizer, context_tokens=60, quarantine=quarantine), quarantine


@pytest.fixture
def path(tmp_path):
    bad = [
        {"prompt": "q"},
        {"prompt": "q", "response": " "},
        {"prompt": "q", "response": "很" * 60},
        {"prompt": "q", "response": "长" * 61},
        {"prompt": [{"role": "user", "content": "q"}] * 2, "response": "a"},
        {"prompt": "q", "response": "<|im_end|>"},
    ]
    lines = [json.dumps(row, ensure_ascii=False) for row in [GOOD, *bad, *[GOOD] * 13]]
    lines.insert(3, "{nonsense")
    lines.insert(4, "[1]")
    file = tmp_path / "rows.jsonl"
    file.write_text("\n".join(lines), encoding="utf-8")
    return file


def test_strict_stops_at_the_first(path, bytes_tokenizer):
    with pytest.raises(
        InputError, match=re.escape(f"{path}:2: the row has no field 'response', its fields are 'prompt'")
    ):
        load(path, bytes_tokenizer)


def test_bad_rows_are_counted_and_written_with_their_reasons(path, bytes_tokenizer, tmp_path):
    units, quarantine = load(path, bytes_tokenizer, bad_rows=BadRows.quarantine, max_rejected_fraction=0.4)
    assert [unit[0].source for unit in units] == [f"{path}:{line}" for line in (1, *range(10, 23))]
    assert quarantine.summary() == {"malformed": 3, "empty": 1, "too_long": 2, "turns": 1, "unlearnable": 1}
    quarantine.write(tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "rejects.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [line["source"] for line in lines] == [f"{path}:{line}" for line in range(2, 10)]
    assert lines[1] == {
        "source": f"{path}:3",
        "defect": "empty",
        "reason": "the field 'response' is empty: fill it in, or remove the row",
        "row": {"prompt": "q", "response": " "},
    }
    assert lines[2]["reason"].startswith("the line is not JSON (Expecting property name enclosed in double quotes")
    assert lines[2]["row"] == "{nonsense\n"
    assert "很" * 60 in (tmp_path / "rejects.jsonl").read_text(encoding="utf-8")


def test_too_many_bad_rows_stop_the_run(path, bytes_tokenizer):
    sentence = (
        "8 of 22 rows are bad (malformed 3, too_long 2, empty 1, turns 1, unlearnable 1), more than "
        f"max_rejected_fraction=0.36; the first is {path}:2: the row has no field 'response'"
    )
    with pytest.raises(InputError, match=f"^{re.escape(sentence)}"):
        load(path, bytes_tokenizer, bad_rows=BadRows.quarantine, max_rejected_fraction=0.36)  # 8 / 22 = 0.364


def test_no_bad_rows_no_file(write_rows, bytes_tokenizer, tmp_path):
    units, quarantine = load(write_rows(GOOD), bytes_tokenizer, bad_rows=BadRows.quarantine)
    quarantine.write(tmp_path)
    assert len(units) == 1
    assert quarantine.summary() == {}
    assert not (tmp_path / "rejects.jsonl").exists()


def test_rows_of_a_folder_or_parquet_are_set_aside_too(tmp_path, bytes_tokenizer):
    import datasets

    rows = [GOOD, {"prompt": "q", "response": None}, *[GOOD] * 8]
    datasets.Dataset.from_list(rows).to_parquet(str(tmp_path / "rows.parquet"))
    units, quarantine = load(
        tmp_path / "rows.parquet", bytes_tokenizer, bad_rows=BadRows.quarantine, max_rejected_fraction=0.1
    )
    assert len(units) == 9
    (reject,) = quarantine.rejects
    assert (reject.source, reject.row) == (f"{tmp_path}/rows.parquet:row 2", rows[1])


@pytest.mark.parametrize("fraction", [-0.1, 1.0, float("nan")])
def test_a_share_that_is_none(fraction):
    with pytest.raises(InputError, match=f"^max_rejected_fraction={fraction}: give at least 0 and less than 1, as in"):
        SupervisedDataConfig(max_rejected_fraction=fraction)


def test_a_row_gives_all_it_gives_or_nothing():
    def make(where, row):
        yield row["n"]
        if row["n"] == 1:
            raise InputError("the second half is bad")
        yield row["n"]

    quarantine = Quarantine(BadRows.quarantine, 0.5)
    assert quarantine.collect([(f"f:{n}", {"n": n}) for n in range(3)], make, None, source="f") == [0, 0, 2, 2]
    assert quarantine.rejects[0].reason == "the second half is bad"

"""A reader of the user's own: its rows go the way of all rows."""

import csv
import json
import re

import pytest

from rlhf.data.prompts import PromptDataConfig, load_prompts
from rlhf.data.quarantine import BadRows
from rlhf.data.supervised import SupervisedDataConfig
from rlhf.data.text import TextDataConfig
from rlhf.types import InputError

TABLE = [("what is 1 + 1?", "2"), ("what is 2 + 2?", "4"), ("what is 3 + 3?", "6"), ("what is 4 + 4?", "8")]
READERS = """
import csv


def table(path):
    with open(path, newline="", encoding="utf-8") as file:
        for question, answer in csv.reader(file, delimiter="\\t"):
            yield {"prompt": question, "answer": answer, "response": answer, "text": f"{question} {answer}"}


def broken(path):
    yield {"prompt": "1"}
    yield ["2"]
    yield {"prompt": "3"}


def raising(path):
    yield {"prompt": "1"}
    raise KeyError("question")


def nameless(path):
    with open(path, newline="", encoding="utf-8") as file:
        yield from csv.DictReader(file, fieldnames=["prompt"], delimiter="\\t")


def undecoded(path):
    yield {"prompt": b"caf\\xe9".decode("utf-8", "surrogateescape")}


def uncopied(path):
    yield {"file": open(path, encoding="utf-8")}
    yield {"prompt": "1", "response": "2"}


def empty(path):
    return []


def nothing(path):
    print(path)


def one(path):
    return {"prompt": "1"}
"""


@pytest.fixture
def reader(tmp_path):
    """The spec of one of `READERS`."""
    file = tmp_path / "readers.py"
    file.write_text(READERS, encoding="utf-8")
    return lambda name: f"{file}:{name}"


@pytest.fixture
def table(tmp_path):
    path = tmp_path / "sums.tsv"
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, delimiter="\t").writerows(TABLE)
    return str(path)


def as_jsonl(folder):
    path = folder / "sums.jsonl"
    rows = [{"prompt": q, "answer": a, "response": a, "text": f"{q} {a}"} for q, a in TABLE]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def test_prompts_equal_those_of_a_jsonl_file(tmp_path, reader, table, bytes_tokenizer):
    room = {"context_tokens": 99, "max_completion_tokens": 9}
    mine = load_prompts(PromptDataConfig(path=table, reader=reader("table"), limit=3), bytes_tokenizer, **room)
    usual = load_prompts(PromptDataConfig(path=as_jsonl(tmp_path), limit=3), bytes_tokenizer, **room)
    assert [prompt.source for prompt in mine] == [f"{table}:row {n}" for n in (1, 2, 3)]
    assert [prompt.id for prompt in mine] == [prompt.id for prompt in usual] == ["sums-1", "sums-2", "sums-3"]
    assert [prompt.token_ids for prompt in mine] == [prompt.token_ids for prompt in usual]
    assert [prompt.meta["answer"] for prompt in mine] == ["2", "4", "6"]


@pytest.mark.parametrize("kind", [SupervisedDataConfig, TextDataConfig])
def test_rows_and_those_held_out_equal_those_of_a_jsonl_file(tmp_path, reader, table, bytes_tokenizer, kind):
    def parts_of(config):
        quarantine = config.quarantine()
        parts = config.load_parts(
            bytes_tokenizer, context_tokens=99, quarantine=quarantine, held_out_fraction=0.5, seed=1
        )
        return [[row.token_ids.tolist() for (row,) in part] for part in (parts.train, *parts.held_out.values())]

    mine = parts_of(kind(path=table, reader=reader("table")))
    assert mine == parts_of(kind(path=as_jsonl(tmp_path)))
    assert [len(part) for part in mine] == [2, 2]


def test_a_held_out_file_is_read_by_it_too(reader, table, bytes_tokenizer):
    config = SupervisedDataConfig(path="train.tsv", reader=reader("table")).at(table)
    units = config.load(bytes_tokenizer, context_tokens=99, quarantine=config.quarantine())
    assert [row.source for (row,) in units] == [f"{table}:row {n}" for n in (1, 2, 3, 4)]


def test_a_text_file_of_documents_is_read_by_it_whole(tmp_path, reader, bytes_tokenizer):
    path = tmp_path / "sums.txt"
    path.write_text("".join(f"{q}\t{a}\n" for q, a in TABLE), encoding="utf-8")
    config = TextDataConfig(path=str(path), reader=reader("table"))
    assert len(config.load(bytes_tokenizer, context_tokens=99, quarantine=config.quarantine())) == len(TABLE)


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("absent", "data.reader has '{spec}', but absent does not exist in"),
        ("broken", "{path}:row 2: data.reader={spec} yields a list, not a dict: yield one per row"),
        ("nameless", "{path}:row 1: data.reader={spec} yields a row with the key None, which is no text: name every f"),
        ("undecoded", "{path}:row 1: data.reader={spec} yields a row with half a surrogate pair (surrogates not allo"),
        ("raising", "{path}: data.reader={spec} raises KeyError after row 1: 'question': correct it, or the file"),
        ("empty", "{path} holds no rows: let data.reader={spec} yield at least one row"),
        ("nothing", "data.reader={spec} returns a NoneType for {path}: yield one dict per row"),
        ("one", "data.reader={spec} returns a dict for {path}: yield one dict per row"),
    ],
)
def test_what_is_wrong_with_a_reader_is_said(reader, table, name, sentence):
    with pytest.raises(InputError, match="^" + re.escape(sentence.format(spec=reader(name), path=table))):
        list(PromptDataConfig(path=table, reader=reader(name)).rows())


def test_a_split_is_the_readers_to_choose(reader, table):
    with pytest.raises(InputError, match=r"^split=test, subset=null: .* or let data\.reader=.* choose$"):
        list(PromptDataConfig(path=table, reader=reader("table"), split="test").rows())


def test_what_is_no_dict_is_quarantined(reader, table, tmp_path):
    config = SupervisedDataConfig(
        path=table, reader=reader("broken"), bad_rows=BadRows.quarantine, max_rejected_fraction=0.5
    )
    quarantine = config.quarantine()
    kept = config.collect(quarantine, lambda where, row: [(where, row["prompt"])])
    assert kept == [(f"{table}:row 1", "1"), (f"{table}:row 3", "3")]
    quarantine.write(tmp_path)
    (line,) = (tmp_path / "rejects.jsonl").read_text(encoding="utf-8").splitlines()
    assert json.loads(line) | {"reason": None} == {
        "source": f"{table}:row 2", "defect": "malformed", "reason": None, "row": "['2']",
    }  # fmt: skip


def test_a_bad_row_that_cannot_be_copied_is_quarantined(reader, table, bytes_tokenizer, tmp_path):
    config = SupervisedDataConfig(
        path=table, reader=reader("uncopied"), bad_rows=BadRows.quarantine, max_rejected_fraction=0.5
    )
    quarantine = config.quarantine()
    assert len(config.load(bytes_tokenizer, context_tokens=99, quarantine=quarantine)) == 1
    quarantine.write(tmp_path)
    (line,) = (tmp_path / "rejects.jsonl").read_text(encoding="utf-8").splitlines()
    assert json.loads(line)["row"]["file"].startswith("<_io.TextIOWrapper")

"""Suites: files, prompts, worked examples, digests, and what is refused."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rlhf.evaluation.forms import Form
from rlhf.evaluation.suite import SuiteConfig, continuations, load_suite
from rlhf.types import InputError


def write(path: Path, *rows: Any) -> str:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path.name


@pytest.fixture
def config(tmp_path) -> SuiteConfig:
    path = write(tmp_path / "test.jsonl", *({"prompt": f"{i}+1", "answer": str(i + 1)} for i in range(4)))
    return SuiteConfig(path=path)


def load(config: SuiteConfig, root: Path, **keys: Any):
    return load_suite("sums", replace(config, **keys), str(root))


def test_paths_are_below_the_root(config, tmp_path):
    assert [item.references for item in load(config, tmp_path).items] == [("1",), ("2",), ("3",), ("4",)]
    assert len(load(config, tmp_path, limit=2).items) == 2


def test_worked_examples_come_before_each_question(config, tmp_path):
    shots = write(tmp_path / "dev.jsonl", {"prompt": "7+1", "answer": "8"}, {"prompt": "8+1", "answer": "9"})
    suite = load(config, tmp_path, shots=1, shots_path=shots, system="Add.", template="{question} = ?")
    assert suite.items[0].messages == (
        {"role": "system", "content": "Add."},
        {"role": "user", "content": "7+1 = ?"},
        {"role": "assistant", "content": "8"},
        {"role": "user", "content": "0+1 = ?"},
    )


def test_the_digest_follows_what_is_asked_alone(config, tmp_path):
    digest = load(config, tmp_path).digest
    (tmp_path / "moved").mkdir()
    (tmp_path / "moved" / "test.jsonl").write_text((tmp_path / "test.jsonl").read_text())
    assert load(config, tmp_path / "moved", metrics={"exact_match": {}}).digest == digest
    for keys in ({"limit": 3}, {"max_tokens": 9}, {"template": "{question}?"}, {"samples": 2, "temperature": 1.0}):
        assert load(config, tmp_path, **keys).digest != digest


def test_continuations_are_choices_or_letters(tmp_path):
    path = write(tmp_path / "mc.jsonl", {"question": "?", "choices": ["red", "blue"], "answer": 0})
    config = SuiteConfig(path=path, layout="listed_choices", form=Form.likelihood)
    (item,) = load_suite("mc", config, str(tmp_path)).items
    assert continuations(config, item) == ("red", "blue")
    assert continuations(replace(config, continuation=" {letter}"), item) == (" A", " B")


@pytest.mark.parametrize(
    ("keys", "sentence"),
    [
        ({"path": "none.jsonl"}, "none.jsonl does not exist"),
        ({"path": "none.csv"}, "none.csv does not exist: correct the path of the suite"),
        ({"layout": "squat"}, "suite.sums.layout=squat: there is no layout of this name; use rows, squad"),
        ({"layout_options": {"answers": "x"}}, "its options: question, answer, context, cluster"),
        ({"template": "{query}"}, "the fields are question, answer"),
        ({"template": "{question"}, "write a brace as {{ or }}"),
        ({"form": Form.likelihood}, "gives no choices: set form=generate"),
        ({"shots": 5, "shots_path": "test.jsonl"}, "has 4 questions: give fewer"),
        (
            {"files": "*.tsv", "path": "none"},
            "none does not exist: give the folder of the files *.tsv, or set suite_root",
        ),
        ({"files": "*.tsv", "path": "."}, "no file that matches files=*.tsv"),
    ],
)
def test_what_cannot_be_asked_is_refused(config, tmp_path, keys, sentence):
    with pytest.raises(InputError, match=r"suite\.sums") as raised:
        load(config, tmp_path, **keys)
    assert sentence in str(raised.value)


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("a.csv", "prompt,answer\n1,2\n1\n", "a.csv:3: it has 1 cells, and there are 2 columns"),
        ("a.json", "[1]", "a.json:row 1: it is a number, not an object"),
        ("a.json", "{", "a.json is not JSON"),
        ("a.csv", "prompt,answer\n", "a.csv holds no rows"),
        ("a.jsonl", "", "a.jsonl holds no rows"),
    ],
)
def test_a_damaged_file_is_named_with_its_line(tmp_path, name, content, sentence):
    (tmp_path / name).write_text(content)
    with pytest.raises(InputError, match=r"suite\.sums") as raised:
        load(SuiteConfig(path=name), tmp_path)
    assert sentence in str(raised.value)


def test_two_rows_with_one_id_are_refused(tmp_path):
    path = write(tmp_path / "t.jsonl", {"id": 1, "prompt": "a", "answer": "b"}, {"id": 1, "prompt": "c", "answer": "d"})
    with pytest.raises(InputError, match=r"the id '1' of .*t\.jsonl:2 is that of .*t\.jsonl:1 too"):
        load(SuiteConfig(path=path), tmp_path)


@pytest.mark.parametrize(
    "keys", [{"continuation": "{choices}"}, {"samples": 0}, {"samples": 2}, {"temperature": -1.0}, {"shots": 1},
             {"shots_path": "x"}, {"form": Form.likelihood, "samples": 2, "temperature": 1.0}]
)  # fmt: skip
def test_settings_that_contradict_each_other_are_refused(keys):
    with pytest.raises(InputError, match="suite: "):
        SuiteConfig(path="x", **keys)

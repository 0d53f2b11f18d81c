"""Data of suites: forms of files, joined answers, examples by subject, and drawn items."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rlhf.evaluation.suite import Suite, SuiteConfig, load_suite
from rlhf.types import InputError


def lines(*rows: Any) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def load(root: Path, contents: dict[str, str], **keys: Any) -> Suite:
    for path, content in contents.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(content, encoding="utf-8")
    return load_suite("mine", SuiteConfig(**keys), str(root))


ROWS = [{"id": "a", "prompt": "1\u2028+1", "answer": "2"}, {"id": "b", "prompt": "2+2", "answer": "4"}]
WITHOUT_ID = [{"prompt": row["prompt"], "answer": row["answer"]} for row in ROWS]


@pytest.mark.parametrize(
    "content",
    [
        json.dumps(ROWS, indent=1, ensure_ascii=False),
        lines(*ROWS),
        json.dumps({"data": ROWS}),
        json.dumps(dict(zip("ab", WITHOUT_ID, strict=True))),
    ],
    ids=["a list", "lines", "a list under data", "an object of objects"],
)
def test_forms_of_json(tmp_path, content):
    suite = load(tmp_path, {"rows.json": content}, path="rows.json")
    assert [(item.id, item.messages[0]["content"], item.references) for item in suite.items] == [
        (row["id"], row["prompt"], (row["answer"],)) for row in ROWS
    ]


def test_text_files_are_rows_with_their_folder(tmp_path):
    keys = {"layout": "classification", "layout_options": {"label_key": "__folder__"}, "template": "{text}"}
    suite = load(tmp_path, {"t/甲/1.txt": "一\n二", "t/乙/2.txt": "三"}, path="t", files="*.txt", **keys)
    assert {(item.references[0], item.messages[0]["content"]) for item in suite.items} == {
        ("甲", "一\n二"),
        ("乙", "三"),
    }


def test_joined_rows_have_the_fields_of_both_files(tmp_path):
    questions, answers = lines({"id": 1, "prompt": "a"}, {"id": 2, "prompt": "b"}), lines({"id": 2, "answer": "B"})
    files = {"q.jsonl": questions, "a.jsonl": answers + lines({"id": 1, "answer": "A"})}
    suite = load(tmp_path, files, path="q.jsonl", joined="a.jsonl")
    assert [item.references for item in suite.items] == [("A",), ("B",)]
    with pytest.raises(InputError, match=r"q\.jsonl:1: joined=.*a\.jsonl has no row whose id is '1'"):
        load(tmp_path, {"a.jsonl": answers}, path="q.jsonl", joined="a.jsonl")


def by_kind(*rows: str) -> str:
    return lines(*({"prompt": f"{kind}{i}", "answer": f"{i}", "kind": kind} for i, kind in enumerate(rows)))


def test_examples_of_the_same_kind(tmp_path):
    files = {"test.jsonl": by_kind("x", "y"), "dev.jsonl": by_kind("x", "x", "y", "x")}
    keys = {
        "path": "test.jsonl",
        "shots_path": "dev.jsonl",
        "shots": 1,
        "shots_by": "kind",
        "shot_answer": "<{answer}>",
    }
    suite = load(tmp_path, files, **keys)
    assert [[each["content"] for each in item.messages] for item in suite.items] == [
        ["x0", "<0>", "x0"],
        ["y2", "<2>", "y1"],
    ]
    with pytest.raises(InputError, match=r"shots=2: dev\.jsonl has 1 questions of kind=y"):
        load(tmp_path, files, **{**keys, "shots": 2})
    with pytest.raises(InputError, match="shots_by=topic names a field that the question lacks"):
        load(tmp_path, files, **{**keys, "shots_by": "topic"})


def test_a_system_message_has_fields(tmp_path):
    suite = load(tmp_path, {"rows.jsonl": lines(ROWS[1])}, path="rows.jsonl", system="On {question}", template="?")
    assert [each["content"] for each in suite.items[0].messages] == ["On 2+2", "?"]


def test_drawn_items_are_a_seeded_sample_in_order(tmp_path):
    files = {"rows.jsonl": by_kind(*"x" * 100)}
    first, again, other = (
        [int(item.references[0]) for item in load(tmp_path, files, path="rows.jsonl", limit=20, limit_seed=seed).items]
        for seed in (1, 1, 2)
    )
    assert first == again == sorted(first) != other
    assert len(set(first)) == 20
    assert max(first) > 50


@pytest.mark.parametrize("keys", [{"limit_seed": 1}, {"shots_by": "kind"}])
def test_keys_that_need_another_are_refused(keys):
    with pytest.raises(InputError, match=r"leave \w+ out"):
        SuiteConfig(path="x", **keys)


@pytest.mark.parametrize(
    ("layout", "row", "sentence"),
    [
        ("dialogues", {"messages": ["one"]}, "has fewer than two turns"),
        ("dialogues", {"messages": [1, 2]}, "neither a text nor an object"),
        ("refusals", {"prompt": "?", "label": "perhaps"}, "give true or false, or one of safe"),
        ("paraphrases", {"paraphrases": []}, "not a list of texts"),
    ],
)
def test_rows_of_another_layout_are_refused(tmp_path, layout, row, sentence):
    with pytest.raises(InputError, match=r"suite\.mine: .*rows\.jsonl:1") as raised:
        load(tmp_path, {"rows.jsonl": lines(row)}, path="rows.jsonl", layout=layout)
    assert sentence in str(raised.value)

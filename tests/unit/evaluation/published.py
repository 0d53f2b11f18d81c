"""Rows made here in the forms in which benchmarks are published, with right and wrong answers; none is a real row."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow
import pyarrow.parquet


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """Files of a benchmark, and answers to its items."""

    files: Mapping[str, str | bytes] = field(default_factory=dict)
    """Contents by path."""
    prompt: str
    """Text of the first prompt; ... stands for any text."""
    right: str | int
    """First reference of the first item, or the index of its first right choice."""
    good: Sequence[str] = ()
    """Right answers, one per item; empty: the right choices are likelier."""
    bad: Sequence[str] = ()
    """Wrong answers, one per item; one for all items may be alone."""


def lines(*rows: Any) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def document(content: Any) -> str:
    return json.dumps(content, ensure_ascii=False)


def table(columns: str, *rows: Sequence[str]) -> str:
    file = io.StringIO()
    csv.writer(file).writerows(([columns.split(",")] if columns else []) + [list(row) for row in rows])
    return file.getvalue()


def parquet(*rows: Mapping[str, Any]) -> bytes:
    buffer = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(list(rows)), buffer)
    return buffer.getvalue()


def article(context: str, *questions: tuple[str, str]) -> str:
    qas = [
        {"id": f"q{i}", "question": question, "answers": [{"text": answer, "answer_start": 0}]}
        for i, (question, answer) in enumerate(questions)
    ]
    return document({"version": "1", "data": [{"title": "t", "paragraphs": [{"context": context, "qas": qas}]}]})


def evidence(question: str, text: str, answer: str) -> dict[str, Any]:
    return {"question": question, "evidences": {"e0": {"evidence": text, "answer": [answer]}}}


def news(name: str, text: str) -> dict[str, str]:
    return {f"THUCNews/{name}.txt": text}


READING = {
    "squad": Published(
        files={"dev-v1.1.json": article("The mill was built in 1820.", ("When?", "in 1820"), ("What?", "The mill"))},
        prompt="The mill was built in 1820.\n\nQuestion: When?...",
        right="in 1820",
        good=["In 1820.", "mill"],
        bad=["yesterday"],
    ),
    "cmrc2018": Published(
        files={
            "squad-style-data/cmrc2018_dev.json": article("磨坊建于1820年。", ("何时？", "1820年"), ("什么？", "磨坊"))
        },
        prompt="磨坊建于1820年。\n\n问题：何时？...",
        right="1820年",
        good=["1820年。", "磨坊"],
        bad=["昨天"],
    ),
    "webqa": Published(
        files={
            "WebQA.v1.0/me_test.ann.json": document(
                {"Q1": evidence("谁写的？", "张三写的。", "张三"), "Q2": evidence("在哪里？", "在江边。", "江边")}
            )
        },
        prompt="张三写的。\n\n问题：谁写的？...",
        right="张三",
        good=["张三", "江边"],
        bad=["不知道"],
    ),
    "thucnews": Published(
        files=news("体育/0", "球队赢了。") | news("财经/9", "利率下调。") | news("星座/5", "本周运势。"),
        prompt="球队赢了。\n\n这篇新闻属于哪一类？...",
        right="体育",
        good=["体育", "星座", "财经"],
        bad=["房产"],
    ),
}  # fmt: skip
"""Questions on texts, and classes of texts."""

DEV = [[f"E{i}?", "w", "x", "y", "z", "B"] for i in range(6)]
PRO = [
    {"question_id": i, "question": question, "options": options, "answer": letter, "answer_index": "ABC".index(letter),
     "category": "law"}
    for i, (question, options, letter) in enumerate([("Which?", ["p", "q", "r"], "B"), ("Who?", ["k", "m", "n"], "A")])
]  # fmt: skip
GPQA = "Question,Correct Answer,Incorrect Answer 1,Incorrect Answer 2,Incorrect Answer 3,Subdomain,Record ID"
MMLU = {
    "mmlu/test/art_test.csv": table("", ["Who?", "k", "l", "m", "n", "C"]),
    "mmlu/test/moral_law_test.csv": table("", ["Which?", "k", "l", "m", "n", "A"]),
}
TRUTHFUL = {
    "TruthfulQA/data/mc_task.json": document([{
        "question": "Is it?",
        "mc1_targets": {"Yes.": 1, "No.": 0},
        "mc2_targets": {"Yes.": 1, "It is.": 1, "No.": 0},
    }])
}  # fmt: skip
CHOICE = {
    "mmlu": Published(
        files={
            **MMLU,
            "mmlu/dev/art_dev.csv": table("", *DEV),
            "mmlu/dev/moral_law_dev.csv": table("", *DEV),
        },
        prompt="Who?\nA. k\nB. l\nC. m\nD. n\nAnswer:",
        right=2,
    ),
    "mmlu_generate": Published(
        files=MMLU,
        prompt="Who?\nA. k\nB. l\n...",
        right="C",
        good=["The answer is (C).", "A"],
        bad=["The answer is (B)."],
    ),
    "mmlu_pro": Published(
        files={"MMLU-Pro/data/test-00000-of-00001.parquet": parquet(*PRO)},
        prompt="Which?\nA. p\nB. q\nC. r\n...",
        right="B",
        good=["The answer is (B).", "The answer is (A)."],
        bad=["The answer is (C)."],
    ),
    "ceval": Published(
        files={
            "ceval-exam/val/law_val.csv": "id,question,A,B,C,D,answer\n0,哪个？,甲,乙,丙,丁,B\n1,谁？,甲,乙,丙,丁,D\n"
        },
        prompt="...哪个？\nA. 甲\nB. 乙\nC. 丙\nD. 丁\n\n最后写“答案是”和选项字母。",
        right="B",
        good=["答案是B", "答案是 D"],
        bad=["答案是C"],
    ),
    "gpqa": Published(
        files={
            "dataset/gpqa_diamond.csv": table(GPQA, *([each, *"rstu", "optics", each] for each in ("Why?", "How?")))
        },
        prompt="Why?\nA. ...\nB. ...\nC. r\nD. ...",
        right="C",
        good=["The answer is (C).", "r"],
        bad=["The answer is (A).", "s"],
    ),
    "truthful_qa_mc1": Published(files=TRUTHFUL, prompt="Q: Is it?\nA:", right=0),
    "truthful_qa_mc2": Published(files=TRUTHFUL, prompt="Q: Is it?\nA:", right=0),
    "hellaswag": Published(
        files={
            "hellaswag/data/hellaswag_val.jsonl": lines(
                {"ind": 4, "ctx": "She opens", "endings": ["the door.", "a sea."], "label": 1},
                {"ind": 9, "ctx": "He reads", "endings": ["a book.", "a stone."], "label": 0},
            )
        },
        prompt="She opens",
        right=1,
    ),
    "crows_pairs": Published(
        files={
            "crows-pairs/data/crows_pairs_anonymized.csv": table(
                ",sent_more,sent_less,stereo_antistereo,bias_type", ["0", "They shout.", "We shout.", "stereo", "age"],
                ["1", "He sings.", "He rests.", "antistereo", "age"],
            )
        },
        prompt="",
        right=1,
    ),
    "order_swaps": Published(
        files={"MMLU-Pro/data/test-00000-of-00001.parquet": parquet(*PRO)},
        prompt="Which?\nA. p\nB. q\nC. r\n...",
        right="B",
        good=["B", "B", "A", "C"],
        bad=["A", "A", "B", "A"],
    ),
}  # fmt: skip
"""Choices."""

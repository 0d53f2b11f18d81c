"""Texts to write: maths (GSM8K, Cobbe et al. 2021; MATH, Hendrycks et al. 2021; AIME), instructions (IFEval, Zhou et
al. 2023), function calls (BFCL, Patil et al. 2024), summaries, and plain text."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

from rlhf.data.fields import take
from rlhf.evaluation.items import Question
from rlhf.evaluation.layouts.base import REMEDY, Row, identity, items_of, text, texts
from rlhf.rewards.text import boxed
from rlhf.types import InputError


def gsm8k(where: str, row: Row) -> Iterator[Question]:
    """Yield a row `{"question", "answer"}` whose answer ends in `#### NUMBER`."""
    solution = text(row, "answer")
    _, mark, final = solution.rpartition("####")
    if not mark:
        raise InputError(f"the field answer has no '####' before the final number: {REMEDY}")
    yield _solved(where, row, text(row, "question"), solution, final.strip().replace(",", ""))


def math(where: str, row: Row) -> Iterator[Question]:
    """Yield a problem of MATH, whose solution has its answer in `\\boxed{}`, or a row with an `answer` beside it. MATH
    numbers the files of each type from 0, so that an id has the type too."""
    problem, solution = text(row, "problem"), str(row.get("solution") or "")
    answer = text(row, "answer") if "answer" in row else boxed(solution)
    if answer is None:
        raise InputError(f"the field solution has no \\boxed{{}}: {REMEDY}")
    meta = {key: str(row[key]) for key in ("level", "type", "subject") if key in row}
    yield _solved(where, row, problem, solution or answer, answer, **meta)


def aime(where: str, row: Row) -> Iterator[Question]:
    """Yield a problem of AIME, under `problem` or `question`, whose answer is a whole number from 0 to 999."""
    lowered = {key.lower(): value for key, value in row.items()}
    problem = text(lowered, "problem" if "problem" in lowered else "question")
    answer = text(lowered, "answer").strip()
    if not answer.isdigit() or int(answer) > 999:
        raise InputError(f"the answer is {answer!r}, not a whole number from 0 to 999: {REMEDY}")
    yield _solved(where, lowered, problem, answer, str(int(answer)), year=str(lowered.get("year", "")))


def _solved(where: str, row: Row, problem: str, solution: str, answer: str, **meta: Any) -> Question:
    own = identity(row, where, "id", "unique_id", "ID")
    return Question(
        id=f"{meta['type']}/{own}" if "type" in meta else own,
        fields={"question": problem, "answer": solution},
        references=(answer,),
        meta={"answer": answer, **meta},
    )


def if_eval(where: str, row: Row) -> Iterator[Question]:
    """Yield a prompt with the instructions that can be verified, `{"prompt", "instruction_id_list", "kwargs"}`."""
    ids, arguments = list(texts(row, "instruction_id_list")), items_of(row, "kwargs")
    if len(ids) != len(arguments):
        raise InputError(f"instruction_id_list has {len(ids)} entries and kwargs {len(arguments)}: {REMEDY}")
    # Files that went through Arrow have every argument of all instructions, null where it is none.
    kwargs = [{name: value for name, value in (each or {}).items() if value is not None} for each in arguments]
    yield Question(
        id=identity(row, where, "key", "id"),
        fields={"question": text(row, "prompt")},
        meta={"instruction_id_list": ids, "kwargs": kwargs},
    )


def bfcl(where: str, row: Row) -> Iterator[Question]:
    """Yield a question with function schemas and the calls that answer it: a row of BFCL's data with the `ground_truth`
    of its answers, which are published as a file of their own, joined by `id`."""
    turns = items_of(row, "question")
    messages = turns[0] if turns and isinstance(turns[0], list) else turns
    functions = take(row, "function", remedy=REMEDY)
    functions = functions if isinstance(functions, list) else [functions]
    yield Question(
        id=text(row, "id"),
        fields={
            "question": "\n".join(str(each["content"]) for each in messages if each["role"] == "user"),
            "functions": json.dumps(functions, ensure_ascii=False, indent=2),
        },
        meta={
            "functions": functions,
            "ground_truth": items_of(row, "ground_truth"),
            "category": text(row, "id").rpartition("_")[0],
        },
    )


def plain(where: str, row: Row, *, text_key: str = "text") -> Iterator[Question]:
    """Yield a text whose own likelihood is measured; blank lines of a corpus are left out."""
    if text(row, text_key).strip():
        yield Question(id=identity(row, where, "id"), fields={}, choices=(text(row, text_key),), right=(0,))


def summary(
    where: str, row: Row, *, document: Sequence[str] = ("document", "article", "text", "content")
) -> Iterator[Question]:
    """Yield a document with its summary: rows of XSum, CNN/DailyMail, LCSTS and others, by the first of the fields
    `document` that the row has, and `summary`, `highlights` or `abstract`."""
    source = next((key for key in document if key in row), document[0])
    target = next((key for key in ("summary", "highlights", "abstract") if key in row), "summary")
    yield Question(
        id=identity(row, where, "id"),
        fields={"document": text(row, source), "answer": text(row, target)},
        references=(text(row, target),),
        meta={"context": text(row, source)},
    )

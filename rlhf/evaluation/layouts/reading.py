"""Questions on a passage: SQuAD (Rajpurkar et al. 2016), CMRC 2018 (Cui et al. 2019) and WebQA (Li et al. 2016)."""

from __future__ import annotations

from collections.abc import Iterator

from rlhf.data.fields import take
from rlhf.evaluation.items import Question
from rlhf.evaluation.layouts.base import REMEDY, Row, identity, items_of, text, texts
from rlhf.types import InputError


def squad(where: str, row: Row) -> Iterator[Question]:
    """Yield the questions of an article, `{"paragraphs": [{"context", "qas"}]}`, of a paragraph of CMRC's other form,
    `{"context_text", "qas"}`, or of one flat row, `{"context", "question", "answers": {"text"}}`.

    Questions on one passage are a cluster. Questions without an answer are left out: their right answer is silence.
    """
    if "question" in row:
        yield from _question(where, row, text(row, "context"), identity(row, where, "context_id", "id"))
        return
    passages = items_of(row, "paragraphs") if "paragraphs" in row else [row]
    for number, passage in enumerate(passages):
        key = "context_text" if "context_text" in passage else "context"
        cluster = identity(passage, f"{where}/{number}", "context_id", "id")
        for each in items_of(passage, "qas"):
            yield from _question(where, each, text(passage, key), cluster)


def _question(where: str, row: Row, context: str, cluster: str) -> Iterator[Question]:
    question = text(row, "query_text" if "query_text" in row else "question")
    answers = take(row, "answers", remedy=REMEDY)
    listed = answers.get("text") if isinstance(answers, dict) else answers
    if not isinstance(listed, list):
        raise InputError(f"the field answers is {answers!r:.60}, not a list of answers: {REMEDY}")
    references = tuple(dict.fromkeys(each["text"] if isinstance(each, dict) else str(each) for each in listed))
    if references:
        yield Question(
            id=identity(row, where, "id", "query_id"),
            fields={"context": context, "question": question},
            references=references,
            cluster=cluster,
            meta={"context": context},
        )


def webqa(where: str, row: Row) -> Iterator[Question]:
    """Yield the question of a row `{"question", "evidences": {KEY: {"evidence", "answer"}}}`, with the first evidence
    that holds an answer; rows without one are left out (`no_answer`)."""
    evidences = take(row, "evidences", remedy=REMEDY)
    listed = list(evidences.values()) if isinstance(evidences, dict) else list(evidences)
    for evidence in listed:
        references = tuple(each for each in texts(evidence, "answer") if each not in ("", "no_answer"))
        if references:
            context = text(evidence, "evidence")
            yield Question(
                id=identity(row, where, "id", "q_key"),
                fields={"context": context, "question": text(row, "question")},
                references=references,
                meta={"context": context},
            )
            return

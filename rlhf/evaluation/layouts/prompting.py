"""Prompts to answer freely: rows of one's own, dialogues (KdConv, Zhou et al. 2020), prompts to refuse or not (XSTest,
Röttger et al. 2024; AdvBench, Zou et al. 2023), and paraphrases (Elazar et al. 2021)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rlhf.data.fields import take
from rlhf.evaluation.items import Question
from rlhf.evaluation.layouts.base import REMEDY, Row, identity, items_of, text, texts
from rlhf.types import InputError, Message

HARM = {"safe": False, "unsafe": True, "harmless": False, "harmful": True}
"""Labels of prompts, and whether they are harmful."""


def own(
    where: str,
    row: Row,
    *,
    question: str = "prompt",
    answer: str | None = "answer",
    context: str | None = None,
    cluster: str | None = None,
) -> Iterator[Question]:
    """Yield a row of one's own: the names of its fields with the question, the right answers, and the context. The
    question may be a dialogue. Other fields may be slices, or be read by a metric."""
    asked = take(row, question, remedy="set layout_options.question to the field with the question")
    remedy = "set layout_options.answer to the field with the right answer, or to null"
    references = () if answer is None else _answers(take(row, answer, remedy=remedy))
    fields = {"question": asked} if isinstance(asked, str) else {}
    if context is not None:
        fields["context"] = text(row, context)
    yield Question(
        id=identity(row, where, "id"),
        fields=fields | ({"answer": references[0]} if references else {}),
        references=references,
        cluster=identity(row, where, cluster) if cluster else "",
        messages=() if isinstance(asked, str) else _dialogue(asked),
        meta={key: value for key, value in row.items() if key != question}
        | ({"context": fields["context"]} if context else {}),
    )


def _answers(value: Any) -> tuple[str, ...]:
    return tuple(map(str, value)) if isinstance(value, list) else (str(value),)


def _dialogue(value: Any) -> tuple[Mapping[str, Any], ...]:
    if not isinstance(value, list) or not all(isinstance(each, dict) and "role" in each for each in value):
        raise InputError(f"the question is {value!r:.60}, neither a text nor a list of messages: {REMEDY}")
    return tuple(value)


def dialogue(where: str, row: Row, *, turns: str = "messages") -> Iterator[Question]:
    """Yield a dialogue whose last turn is to be written: a list of texts, or of objects with `message` or `content`.

    The turns alternate, and the last is the assistant's: a dialogue of an odd number of turns loses its last one.
    """
    said = [_turn(each) for each in items_of(row, turns)]
    said = said[: len(said) // 2 * 2]
    if not said:
        raise InputError(f"the field {turns} has fewer than two turns: {REMEDY}")
    messages: list[Message] = [
        {"role": "assistant" if number % 2 else "user", "content": each} for number, each in enumerate(said[:-1])
    ]
    yield Question(
        id=identity(row, where, "id"), fields={"answer": said[-1]}, references=(said[-1],), messages=tuple(messages)
    )


def _turn(turn: Any) -> str:
    if isinstance(turn, str):
        return turn
    if not isinstance(turn, Mapping):
        raise InputError(f"a turn is {turn!r:.60}, neither a text nor an object: {REMEDY}")
    return text(turn, "message" if "message" in turn else "content")


def refusable(
    where: str, row: Row, *, question: str = "prompt", harmful: bool | None = None, label: str = "label"
) -> Iterator[Question]:
    """Yield a prompt that is to be refused or not. `question` names the field of the prompt. `harmful` holds for all
    rows; if it is null, the field `label` says it: true, false, or one of the words of `HARM`."""
    value = take(row, label, remedy=REMEDY) if harmful is None else harmful
    is_harmful = value if isinstance(value, bool) else HARM.get(str(value))
    if is_harmful is None:
        raise InputError(f"the field {label} is {value!r:.60}: give true or false, or one of {', '.join(HARM)}")
    yield Question(
        id=identity(row, where, "id", "id_v2"),
        fields={"question": text(row, question)},
        meta={**{key: each for key, each in row.items() if key != question}, "harmful": is_harmful},
    )


def paraphrases(where: str, row: Row) -> Iterator[Question]:
    """Yield the ways of asking one question, `{"paraphrases": [...], "answer"}`, as one cluster."""
    cluster = identity(row, where, "id")
    references = _answers(row["answer"]) if row.get("answer") is not None else ()
    for number, each in enumerate(texts(row, "paraphrases")):
        yield Question(id=f"{cluster}/{number}", fields={"question": each}, references=references, cluster=cluster)

"""Multiple choice and classification: MMLU (Hendrycks et al. 2021), MMLU-Pro (Wang et al. 2024), C-Eval (Huang et al.
2023), GPQA (Rein et al. 2023), TruthfulQA (Lin et al. 2022), THUCNews (Li and Sun 2007)."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from rlhf.data.fields import take
from rlhf.evaluation.files import FILE
from rlhf.evaluation.items import Question
from rlhf.evaluation.layouts.base import LETTERS, REMEDY, Row, identity, items_of, letter_index, text, texts
from rlhf.types import InputError

MMLU_COLUMNS = ("question", "A", "B", "C", "D", "answer")
"""Columns of MMLU's files, which have no header."""


def choice(question: str, choices: Sequence[str], right: Sequence[int], id: str, **meta: Any) -> Question:
    """Return a question with its lettered choices; `right` are the indices of right ones. A subject is a field too."""
    lettered = "\n".join(f"{LETTERS[i]}. {each}" for i, each in enumerate(choices))
    return Question(
        id=id,
        fields={"question": question.strip(), "choices": lettered, "answer": LETTERS[right[0]]}
        | ({"subject": str(meta["subject"]).replace("_", " ")} if "subject" in meta else {}),
        references=tuple(LETTERS[i] for i in right),
        choices=tuple(choices),
        right=tuple(right),
        meta=meta,
    )


def lettered(where: str, row: Row) -> Iterator[Question]:
    """Yield a row with one column per choice and the letter of the right one: MMLU's CSV, C-Eval, CMMLU. The subject is
    the file's name without the ending of the split."""
    choices = [text(row, letter) for letter in "ABCDE" if letter in row]
    if len(choices) < 2:
        raise InputError(f"the row has no columns A and B, its columns are {', '.join(row)}: {REMEDY}")
    key = next((key for key in ("answer", "Answer") if key in row), "answer")
    right = letter_index(text(row, key), choices, key)
    question = text(row, "question" if "question" in row else "Question")
    subject = str(row.get("subject") or _subject(str(row.get(FILE, ""))))
    yield choice(question, choices, [right], f"{subject}/{identity(row, where, 'id')}", subject=subject)


def _subject(file: str) -> str:
    """Return the subject in a file's name, such as `law` of `law_test`."""
    for ending in ("_test", "_val", "_dev", "_validation"):
        file = file.removesuffix(ending)
    return file


def listed(where: str, row: Row) -> Iterator[Question]:
    """Yield a row with a list of choices, and the right one as index, letter or both: MMLU of `datasets`, MMLU-Pro."""
    key = "options" if "options" in row else "choices"
    choices = [each for each in texts(row, key) if each != "N/A"]
    answer = take(row, "answer_index" if "answer_index" in row else "answer", remedy=REMEDY)
    right = letter_index(answer, choices, "answer") if isinstance(answer, str) else int(answer)
    if not 0 <= right < len(choices):
        raise InputError(f"the answer is {answer!r}, and there are {len(choices)} choices: {REMEDY}")
    subject = str(row.get("category") or row.get("subject") or row.get(FILE, ""))
    id = f"{subject}/{identity(row, where, 'question_id', 'id')}"
    yield choice(text(row, "question"), choices, [right], id, subject=subject)


def gpqa(where: str, row: Row) -> Iterator[Question]:
    """Yield a row of GPQA, whose choices are put in an order that follows from the question."""
    right = text(row, "Correct Answer").strip()
    choices = [right, *(text(row, f"Incorrect Answer {i}").strip() for i in (1, 2, 3))]
    random.Random(text(row, "Question")).shuffle(choices)
    subject = str(row.get("Subdomain") or "")
    id = identity(row, where, "Record ID")
    yield choice(text(row, "Question").strip(), choices, [choices.index(right)], id, subject=subject)


def truthful_qa(where: str, row: Row, *, targets: str = "mc1_targets") -> Iterator[Question]:
    """Yield a row of TruthfulQA's multiple choice, with one right choice (`mc1_targets`) or several (`mc2_targets`).

    Targets are `{choice: label}` or `{"choices", "labels"}`.
    """
    given = take(row, targets, remedy=REMEDY)
    if not isinstance(given, dict):
        raise InputError(f"the field {targets} is {given!r:.60}, not an object: {REMEDY}")
    pairs = dict(zip(given["choices"], given["labels"], strict=True)) if "labels" in given else given
    right = [i for i, label in enumerate(pairs.values()) if label]
    if not right:
        raise InputError(f"the field {targets} has no choice with label 1: {REMEDY}")
    yield choice(text(row, "question"), list(pairs), right, identity(row, where, "id"))


def classified(
    where: str, row: Row, *, text_key: str = "text", label_key: str = "label", labels: Sequence[str] = ()
) -> Iterator[Question]:
    """Yield a text with its class: THUCNews and other sets as rows. `labels` are the names of numbered classes."""
    label = text(row, label_key)
    if labels and label.isdigit():
        if int(label) >= len(labels):
            raise InputError(f"the label is {label}, and there are {len(labels)} labels: {REMEDY}")
        label = labels[int(label)]
    yield Question(
        id=identity(row, where, "id"),
        fields={"text": text(row, text_key), "labels": ", ".join(labels), "labels_zh": "、".join(labels)},
        references=(label,),
        meta={"label": label},
    )


def bias_pair(where: str, row: Row) -> Iterator[Question]:
    """Yield a pair of sentences of CrowS-Pairs (Nangia et al. 2020), the more stereotyping one first: `sent_more`, in
    pairs of both directions (`stereo_antistereo`)."""
    more, less = text(row, "sent_more"), text(row, "sent_less")
    yield Question(
        id=identity(row, where, "id", ""),
        fields={},
        choices=(more, less),
        right=(1,),
        meta={"pair": [0, 1], "subject": str(row.get("bias_type", ""))},
    )


def continued(where: str, row: Row) -> Iterator[Question]:
    """Yield a context whose right ending is to be chosen: HellaSwag's `{"ctx", "endings", "label"}` and rows of that
    form."""
    endings = items_of(row, "endings")
    label = int(text(row, "label"))
    if not 0 <= label < len(endings):
        raise InputError(f"the label is {label}, and there are {len(endings)} endings: {REMEDY}")
    yield choice(text(row, "ctx"), [str(each) for each in endings], [label], identity(row, where, "ind", "id"))


def order_swaps(where: str, row: Row) -> Iterator[Question]:
    """Yield a row of listed choices twice, with its choices in order and in reverse, as one cluster."""
    for question in listed(where, row):
        texts, last = question.choices, len(question.choices) - 1
        mirrored = choice(
            question.fields["question"],
            texts[::-1],
            [last - index for index in question.right],
            f"{question.id}/reversed",
            **question.meta,
        )
        yield replace(question, cluster=question.id)
        yield replace(mirrored, cluster=question.id)

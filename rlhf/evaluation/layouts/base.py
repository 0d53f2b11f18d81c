"""Access to the fields of a benchmark's row, with one sentence for what is missing."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from rlhf.data.fields import take
from rlhf.evaluation.items import Question
from rlhf.types import InputError

Row = Mapping[str, Any]
Layout = Callable[[str, Row], Iterable[Question]]
"""Function from the place of a row and the row to its questions."""
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
REMEDY = "choose the suite's layout for this file, or correct it"


def text(row: Row, key: str) -> str:
    """Return a field as text, numbers too. Raises InputError if it is missing, or neither."""
    value = take(row, key, remedy=REMEDY)
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise InputError(f"the field {key} is {value!r:.60}, not a text: {REMEDY}")
    if isinstance(value, float) and math.isnan(value):
        raise InputError(f"the field {key} is empty: {REMEDY}")
    return str(value)


def items_of(row: Row, key: str) -> Sequence[Any]:
    """Return a field that is a list. Raises InputError."""
    value = take(row, key, remedy=REMEDY)
    if not isinstance(value, list):
        raise InputError(f"the field {key} is {value!r:.60}, not a list: {REMEDY}")
    return value


def texts(row: Row, key: str) -> tuple[str, ...]:
    """Return a field that is a list of texts, or one text. Raises InputError."""
    value = take(row, key, remedy=REMEDY)
    listed = value if isinstance(value, list) else [value]
    if not listed or not all(isinstance(each, str | int | float) for each in listed):
        raise InputError(f"the field {key} is {value!r:.60}, not a list of texts: {REMEDY}")
    return tuple(map(str, listed))


def identity(row: Row, where: str, *keys: str) -> str:
    """Return the row's own id under one of the keys, else the end of its place."""
    named = next((str(row[key]) for key in keys if row.get(key) not in (None, "")), None)
    return named if named is not None else where.rpartition("/")[2]


def letter_index(letter: str, choices: Sequence[str], key: str) -> int:
    """Return the index of a choice from its letter. Raises InputError if there is no such choice."""
    index = LETTERS.find(letter.strip().upper()) if len(letter.strip()) == 1 else -1
    if not 0 <= index < len(choices):
        raise InputError(
            f"the field {key} is {letter!r}, and the choices are A to {LETTERS[len(choices) - 1]}: {REMEDY}"
        )
    return index

"""Access to the fields of a row, for every loader: one sentence for a field that is missing or of the wrong type, and a
record of the fields that were read."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from enum import StrEnum
from typing import Any

from rlhf.data.files import kind_of
from rlhf.types import InputError


class Defect(StrEnum):
    """Defects by which rejected rows are counted."""

    malformed = "malformed"
    """No JSON object, a field missing or of the wrong type, a dialogue that the chat template refuses."""
    empty = "empty"
    """A prompt, an answer or a document without text."""
    turns = "turns"
    """A dialogue that does not begin with the user, or two turns of one role in a row."""
    unlearnable = "unlearnable"
    """No token to learn."""
    same = "same"
    """Two sides of a pair that do not differ."""
    prompts_differ = "prompts_differ"
    """Two sides of a pair that answer different prompts."""
    too_long = "too_long"
    """More tokens than the limit."""


class BadRow(InputError):
    """A row that cannot be used, with its defect; any other InputError of a row counts as `malformed`."""

    def __init__(self, sentence: str, defect: Defect) -> None:
        super().__init__(sentence)
        self.defect = defect


class Fields(Mapping[str, Any]):
    """The fields of a row; taking a value adds the field's name to `read`."""

    __slots__ = ("read", "row")

    def __init__(self, row: Mapping[str, Any], read: set[str]) -> None:
        self.row, self.read = row, read

    def __getitem__(self, key: str) -> Any:
        value = self.row[key]
        self.read.add(key)
        return value

    def __contains__(self, key: object) -> bool:
        return key in self.row

    def __iter__(self) -> Iterator[str]:
        return iter(self.row)

    def __len__(self) -> int:
        return len(self.row)


def require_positive(**settings: int | None) -> None:
    """Raise InputError for a setting below 1; None passes."""
    for name, value in settings.items():
        if value is not None and value < 1:
            raise InputError(f"{name}={value} leaves nothing: set it to at least 1, or to null for no limit")


def take(row: Mapping[str, Any], key: str, *, remedy: str) -> Any:
    """Return the field `key` or, if no field has that name, the nested field of that path: `reward_model.ground_truth`.

    `remedy` ends the error for a missing field: the config key to set.
    """
    if key in row:
        return row[key]
    holder, value = "the row", row
    for part in key.split("."):
        if not isinstance(value, Mapping):
            raise InputError(f"{holder} is {kind_of(value)}, not an object with a '{part}' in it: {remedy}")
        if part not in value:
            keys = ", ".join(f"'{name}'" for name in value) or "none at all"
            raise InputError(f"{holder} has no field '{part}', its fields are {keys}: {remedy}")
        holder, value = f"the field '{part}'", value[part]
    return value


def take_text(row: Mapping[str, Any], key: str, *, remedy: str) -> str:
    """Return the field `key`, which must be text that is not blank."""
    value = take(row, key, remedy=remedy)
    if not isinstance(value, str):
        raise InputError(f"the field '{key}' is {kind_of(value)}, not text: {remedy}")
    if not value.strip():
        raise empty(f"the field '{key}'")
    return value


def empty(what: str, why: str = "") -> BadRow:
    return BadRow(f"{what} is empty{why}: fill it in, or remove the row", Defect.empty)


def has(row: Mapping[str, Any], key: str) -> bool:
    """Return whether the row has the field and its value is not null; a missing Parquet value is null."""
    value: Any = row.row if isinstance(row, Fields) else row  # does not count as read
    for part in (key,) if key in row else key.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value is not None


def finite(value: object) -> float | None:
    """Return `value` as a float; None if it is not a number, NaN, infinite, or larger than a float can hold."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def take_number(row: Mapping[str, Any], key: str, *, remedy: str) -> float:
    """Return the field `key`, which must be a finite number."""
    return as_number(take(row, key, remedy=remedy), f"the field '{key}' is")


def as_number(value: object, subject: str) -> float:
    """Return `value` as a finite number; `subject` begins the error for any other value."""
    number = finite(value)
    if number is None:
        found = str(value) if isinstance(value, float) else kind_of(value)
        found = f"{found} of more than 300 digits" if type(value) is int else found
        raise InputError(f"{subject} {found}, not a finite number: correct or remove the row")
    return number

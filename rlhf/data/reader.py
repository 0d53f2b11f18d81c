"""Rows out of a function of the user's own, for files in a form of their own."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from rlhf.lookup import find_function
from rlhf.types import InputError

KEY = "data.reader"


def read_with(
    spec: str, path: str, refuse: Callable[[str, object, InputError], None]
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield `(path:row N, row)` for each row that the function `spec` yields for `path`; N counts from 1.

    A row that is no dict, or that no JSON can hold, is refused. Raises InputError if the function cannot be found,
    raises, or returns no rows.
    """
    for number, row in enumerate(_rows(spec, path), start=1):
        where = f"{path}:row {number}"
        if (problem := _problem_of(row)) is None:
            yield where, dict(row)
        else:
            refuse(where, repr(row), InputError(f"{KEY}={spec} yields {problem}"))


def _problem_of(row: object) -> str | None:
    """Reason why a row cannot be read, hashed and written like one of a JSONL file, with its remedy; None without."""
    if not isinstance(row, Mapping):
        return f"a {_name(row)}, not a dict: yield one per row"
    if (key := next((key for key in row if not isinstance(key, str)), "")) != "":
        return f"a row with the key {key!r}, which is no text: name every field"
    try:
        json.dumps(dict(row), ensure_ascii=False, sort_keys=True, default=str).encode("utf-8")
    except UnicodeEncodeError as error:
        return f"a row with half a surrogate pair ({error.reason}): decode the file with errors='replace'"
    except (TypeError, ValueError) as error:
        return f"a row that cannot be JSON ({error}): yield texts, numbers, lists and dicts"
    return None


def _rows(spec: str, path: str) -> Iterator[Any]:
    read = find_function(KEY, spec)
    number = 0
    try:
        rows = read(path)
        if not isinstance(rows, Iterable) or isinstance(rows, str | bytes | Mapping):
            raise InputError(f"{KEY}={spec} returns a {_name(rows)} for {path}: yield one dict per row")
        for row in rows:
            number += 1
            yield row
    except InputError:
        raise
    except Exception as error:
        raise InputError(
            f"{path}: {KEY}={spec} raises {_name(error)} after row {number}: {error}: correct it, or the file"
        ) from error


def _name(value: object) -> str:
    return type(value).__name__

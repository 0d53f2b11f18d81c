"""Rows out of a function of the user's own, for files in a form of their own."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from rlhf.lookup import find_function
from rlhf.types import InputError

KEY = "data.reader"


def read_with(
    spec: str, path: str, refuse: Callable[[str, object, InputError], None]
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield `(path:row N, row)` for each row that the function `spec` yields for `path`; N counts from 1.

    A row that is no dict is refused. Raises InputError if the function cannot be found, raises, or returns no rows.
    """
    for number, row in enumerate(_rows(spec, path), start=1):
        where = f"{path}:row {number}"
        if isinstance(row, Mapping):
            yield where, dict(row)
        else:
            refuse(where, repr(row), InputError(f"{KEY}={spec} yields a {_name(row)}, not a dict: yield one per row"))


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

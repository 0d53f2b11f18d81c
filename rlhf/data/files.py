"""Rows out of a file or folder, each with the place it came from."""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

from rlhf.data.arrow import DEFAULT_SPLIT, FORMS, read_folder, read_parquet
from rlhf.data.reader import read_with
from rlhf.types import InputError

Row = dict[str, Any]
Refuse = Callable[[str, object, InputError], None]
"""Handler of a bad row, called with its place, its contents and the error: raises, or records the row and returns."""

_FILES = (".jsonl", ".parquet", ".txt")
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


@contextmanager
def errors_at(where: str) -> Iterator[None]:
    """Prefix an `InputError` raised in the block with the row's place."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{where}: {error}") from error


def raise_at(where: str, _row: object, error: InputError) -> None:
    """Raise the error of a bad row, prefixed with its place: the handler of `bad_rows=strict`."""
    with errors_at(where):
        raise error


def read_rows(
    path: str,
    split: str = DEFAULT_SPLIT,
    refuse: Refuse = raise_at,
    *,
    subset: str | None = None,
    reader: str | None = None,
) -> Iterator[tuple[str, Row]]:
    """Yield `(where, row)`: `where` is `path:line` for a JSONL file and `path:row N`, from 1, for anything else.

    `split` and `subset` select a part of a folder; a file has neither. `reader` names a function that reads the path
    instead (`data.reader`). Raises InputError for a path without rows.
    """
    if not path:
        # An empty Path is the current folder.
        raise InputError(f"the path of the rows is empty, as that of an unset shell variable: {FORMS}")
    if not Path(path).exists():
        raise InputError(f"{path} does not exist: {FORMS}")
    if reader is not None:
        refuse_splits(path, split, subset, remedy=f"let data.reader={reader} choose")
        return at_least_one(path, read_with(reader, path, refuse), f"let data.reader={reader} yield")
    if Path(path).is_dir():
        rows: Iterator[tuple[str, Row]] = read_folder(path, split, subset)
    elif path.endswith(".jsonl"):
        rows = _read_jsonl(path, refuse)
    elif path.endswith(".parquet"):
        rows = read_parquet(path)
    else:
        raise InputError(f"{path} has the suffix '{Path(path).suffix}', which is not read: {FORMS}")
    if not Path(path).is_dir():
        refuse_splits(path, split, subset)
    return at_least_one(path, rows, FORMS + " with")


def refuse_splits(
    path: str, split: str, subset: str | None, *, remedy: str = "give a folder that datasets can load"
) -> None:
    """Raise InputError for a split or subset of a file, which has neither."""
    if (split, subset) != (DEFAULT_SPLIT, None):
        raise InputError(
            f"split={split}, subset={subset or 'null'}: {path} has neither; set split={DEFAULT_SPLIT} and subset=null, "
            f"or {remedy}"
        )


def splits_of(path: str, split: str, subset: str | None) -> tuple[str, str | None]:
    """Return the split and subset for `path`, given those of another path: the same for a folder, none for a file."""
    is_file = Path(path).suffix in _FILES and not Path(path).is_dir()
    return (DEFAULT_SPLIT, None) if is_file else (split, subset)


def kind_of(value: object) -> str:
    """Return the kind of a JSON value in words."""
    names = {str: "text", bool: "a boolean", int: "a number", float: "a number", list: "a list", dict: "an object"}
    return "null" if value is None else names.get(type(value), f"a {type(value).__name__}")


def at_least_one(path: str, rows: Iterator[tuple[str, Row]], remedy: str) -> Iterator[tuple[str, Row]]:
    """Yield the rows. Raises InputError if there is none; `remedy` goes before "at least one row"."""
    first = next(rows, None)
    if first is None:
        raise InputError(f"{path} holds no rows: {remedy} at least one row")
    yield first
    yield from rows


def _read_jsonl(path: str, refuse: Refuse) -> Iterator[tuple[str, Row]]:
    try:
        with open(path, "rb") as file:
            for number, line in enumerate(file, start=1):
                line = line.removeprefix(codecs.BOM_UTF8) if number == 1 else line
                if not line.strip():
                    continue
                try:
                    row = _parse(line.rstrip(b"\r\n"))
                except InputError as error:
                    refuse(f"{path}:{number}", line.decode("utf-8", "replace"), error)
                else:
                    yield f"{path}:{number}", row
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}): check its permissions and its disk") from error


def _parse(line: bytes) -> Row:
    if b"\0" in line:
        raise InputError("the line holds a NUL byte, so it is not text: write the file again as UTF-8")
    try:
        text = line.decode("utf-8")
    except UnicodeDecodeError as error:
        byte = f"byte {error.start + 1} of the line (0x{line[error.start]:02x})"
        raise InputError(f"{byte} is not UTF-8: convert the file to UTF-8") from None
    try:
        row = json.loads(text, parse_constant=_refuse_constant)
        if _SURROGATE.search(text):
            json.dumps(row, ensure_ascii=False).encode("utf-8")  # a tokenizer refuses half a surrogate pair
    except json.JSONDecodeError as error:
        raise _malformed(f"{error.msg}, column {error.colno}") from None
    except (ValueError, RecursionError) as error:
        raise _malformed(str(error)) from None
    if not isinstance(row, dict):
        raise InputError(f'the line is {kind_of(row)}, not an object: write one {{"field": ...}} per line')
    return row


def _malformed(reason: str) -> InputError:
    return InputError(f"the line is not JSON ({reason}): write one object per line, or remove the line")


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON value, null is")

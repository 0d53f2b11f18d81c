"""Rows out of a file or folder, each with the place it came from."""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

from rlhf.types import InputError

Row = dict[str, Any]
Refuse = Callable[[str, object, InputError], None]
"""What becomes of a bad row, given its place, what is there, and what is wrong with it: raise, or note it and go on."""

_FORMS = "give a .jsonl file, a .parquet file or a folder that datasets can load"
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
_SAVED_BY_DATASETS = ("dataset_info.json", "dataset_dict.json", "state.json")


@contextmanager
def located(where: str) -> Iterator[None]:
    """Puts the row's place in front of an `InputError` raised inside."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{where}: {error}") from error


def raise_located(where: str, _row: object, error: InputError) -> None:
    """The strict way with bad rows."""
    with located(where):
        raise error


def read_rows(path: str, split: str, refuse: Refuse = raise_located) -> Iterator[tuple[str, Row]]:
    """Yields `(where, row)`: `where` is `path:line` of a JSONL file and `path:row N`, from 1, of anything else.

    `split` chooses among the splits of a folder; a file has none. A path that holds no row is an `InputError`.
    """
    if not Path(path).exists():
        raise InputError(f"{path} does not exist: {_FORMS}")
    if Path(path).is_dir():
        rows = _read_folder(path, split)
    elif path.endswith(".jsonl"):
        rows = _read_jsonl(path, refuse)
    elif path.endswith(".parquet"):
        rows = _read_parquet(path)
    else:
        raise InputError(f"{path} has the suffix '{Path(path).suffix}', which is not read: {_FORMS}")
    return _at_least_one(path, rows)


def kind_of(value: object) -> str:
    """What a JSON value is, in words."""
    names = {str: "text", bool: "a boolean", int: "a number", float: "a number", list: "a list", dict: "an object"}
    return "null" if value is None else names.get(type(value), f"a {type(value).__name__}")


def _at_least_one(path: str, rows: Iterator[tuple[str, Row]]) -> Iterator[tuple[str, Row]]:
    first = next(rows, None)
    if first is None:
        raise InputError(f"{path} holds no rows: {_FORMS} with at least one row")
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
            json.dumps(row, ensure_ascii=False).encode("utf-8")  # half a surrogate pair is no text a tokenizer takes
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


def _read_parquet(path: str) -> Iterator[tuple[str, Row]]:
    import pyarrow.parquet

    number = 0
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=1024):
                for row in batch.to_pylist():
                    number += 1
                    yield f"{path}:row {number}", row
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        place = f"{path} cannot be read as Parquet after row {number}"
        raise InputError(f"{place} ({_one_line(error)}): write the file again") from error


def _read_folder(path: str, split: str) -> Iterator[tuple[str, Row]]:
    for number, row in enumerate(_load_folder(path, split), start=1):
        yield f"{path}:row {number}", row


def _load_folder(path: str, split: str) -> Iterator[Row]:
    import datasets
    from datasets.exceptions import DatasetsError

    try:
        if not any(Path(path, name).exists() for name in _SAVED_BY_DATASETS):
            return iter(datasets.load_dataset(path, split=split))
        saved = datasets.load_from_disk(path).with_format(None)  # it may have been saved as numpy or torch
    except (DatasetsError, OSError, ValueError, KeyError) as error:
        reason = f"{_one_line(error)}; {_one_line(error.__cause__)}" if error.__cause__ else _one_line(error)
        raise InputError(f"{path} cannot be loaded by datasets with split={split} ({reason}): {_FORMS}") from error
    if not isinstance(saved, datasets.DatasetDict):
        return iter(saved)
    if split not in saved:
        raise InputError(f"{path} has no split '{split}', only {', '.join(saved)}: set split to one of them")
    return iter(saved[split])


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()).rstrip(".")

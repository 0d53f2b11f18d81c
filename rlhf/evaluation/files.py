"""Rows of evaluation data, in the forms in which benchmarks are published: JSON lines, Parquet, JSON, CSV, TSV, plain
text, and folders of such files."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rlhf.data.arrow import DEFAULT_SPLIT
from rlhf.data.files import at_least_one, kind_of
from rlhf.data.files import read_rows as read_training_rows
from rlhf.types import InputError

FILE = "__file__"
"""Field that is added to each row: the file's name without its suffix, by which MMLU and C-Eval name their subjects."""
FOLDER = "__folder__"
"""Field of a row that is a text file: the name of the file's folder, by which THUCNews names its classes."""
LARGEST_CELL = 1 << 24
"""Characters of a CSV cell that are read."""

Rows = Iterator[tuple[str, dict[str, Any]]]


def read_rows(
    path: str,
    *,
    files: str | None = None,
    columns: Sequence[str] = (),
    split: str = DEFAULT_SPLIT,
    subset: str | None = None,
) -> Rows:
    """Yield `(where, row)` for each row of a file, or of a folder's files that match the pattern `files`, by name.

    `columns` names the columns of CSV files without a header. A folder without `files` is one that datasets loads.
    Raises InputError for a file that cannot be read, and for a path without rows.
    """
    if files is not None and not Path(path).exists():
        raise InputError(
            f"{path} does not exist: give the folder of the files {files}, or set suite_root to the folder of the "
            "download"
        )
    if files is None or not Path(path).is_dir():
        yield from _read_file(path, columns, split, subset)
        return
    names = sorted(str(file) for file in Path(path).rglob(files) if file.is_file())
    if not names:
        raise InputError(f"{path} has no file that matches files={files}: correct the pattern, or the folder")
    for name in names:
        yield from _read_file(name, columns, DEFAULT_SPLIT, None)


def _read_file(path: str, columns: Sequence[str], split: str, subset: str | None) -> Rows:
    reader = READERS.get(Path(path).suffix)
    if reader is None or Path(path).is_dir():
        rows = read_training_rows(path, split, subset=subset)
    else:
        if not Path(path).is_file():
            raise InputError(f"{path} does not exist: correct the path of the suite, or suite_root")
        rows = at_least_one(path, reader(path, columns), "give a suite")
    for where, row in rows:
        yield where, {**row, FILE: Path(path).stem}


def _read_json(path: str, _columns: Sequence[str]) -> Rows:
    """Yield the objects of a list, of the list under `data`, of an object of objects by name (WebQA), of lines (BFCL's
    files have this suffix), or the one object of the file."""
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
        content = _read_lines(text) or json.loads(text)
    except (ValueError, OSError, RecursionError) as error:
        raise InputError(f"{path} is not JSON ({error}): write it again, or convert it to .jsonl") from None
    rows = content if isinstance(content, list) else _rows_in(content) if isinstance(content, dict) else [content]
    for number, row in enumerate(rows, start=1):
        if not isinstance(row, dict):
            raise InputError(f"{path}:row {number}: it is {kind_of(row)}, not an object: correct the file")
        yield f"{path}:row {number}", row


def _read_lines(text: str) -> list[Any] | None:
    """Return the values of lines of JSON; None if the first line is no object, or the only line."""
    lines = [line for line in text.split("\n") if line.strip()]
    try:
        is_object = len(lines) > 1 and isinstance(json.loads(lines[0]), dict)
    except ValueError:
        return None
    return [json.loads(line) for line in lines] if is_object else None


def _rows_in(content: Mapping[str, Any]) -> list[Any]:
    if isinstance(content.get("data"), list):
        return list(content["data"])
    if content and all(isinstance(row, dict) for row in content.values()):
        return [{"id": name, **row} for name, row in content.items()]
    return [content]


def _read_text(path: str, _columns: Sequence[str]) -> Rows:
    """Yield the text of a file as one row."""
    try:
        yield path, {"text": Path(path).read_text(encoding="utf-8-sig"), FOLDER: Path(path).absolute().parent.name}
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read ({error}): write it again as UTF-8") from None


def _read_separated(path: str, columns: Sequence[str], separator: str) -> Rows:
    csv.field_size_limit(LARGEST_CELL)
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, delimiter=separator)
            names = list(columns) or next(reader, [])
            for cells in reader:
                where = f"{path}:{reader.line_num}"
                if not any(cells):
                    continue
                if len(cells) != len(names):
                    raise InputError(
                        f"{where}: it has {len(cells)} cells, and there are {len(names)} columns "
                        f"({', '.join(names)}): correct the line, or name the columns of a file without a header in "
                        "`columns`"
                    )
                yield where, dict(zip(names, cells, strict=True))
    except (csv.Error, OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read ({error}): write it again as UTF-8") from None


READERS: Mapping[str, Callable[[str, Sequence[str]], Rows]] = {
    ".json": _read_json,
    ".csv": lambda path, columns: _read_separated(path, columns, ","),
    ".tsv": lambda path, columns: _read_separated(path, columns, "\t"),
    ".txt": _read_text,
}
"""Readers of what training data cannot be, by suffix."""

"""Rows out of Arrow: Parquet files, and folders that `datasets` loads."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from rlhf.types import InputError

if TYPE_CHECKING:
    import pyarrow

DEFAULT_SPLIT = "train"
FORMS = "give a .jsonl file, a .parquet file or a folder that datasets can load"
_SAVED_BY_DATASETS = ("dataset_info.json", "dataset_dict.json", "state.json")


class ArrowRow(dict[str, Any]):
    """A row with the Arrow types of its columns."""

    types: ClassVar[Mapping[str, pyarrow.DataType]] = {}  # set on instances, from the table's schema


def without_padding(row: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the row without the nulls that Arrow adds: a struct has the union of the keys of all rows, null where a
    row lacks the key, so that a tool call would get the arguments of every other tool.

    Arrow does not distinguish an absent key from a null, so every null inside a struct is dropped. Other nulls were
    written by the user and stay: nulls in JSONL files, in JSON text, in the JSON type that `datasets` uses for objects
    with different keys, in lists, and in whole columns.
    """
    if not isinstance(row, ArrowRow):
        return row
    return {name: _each_part(value, row.types.get(name), _without_nulls) for name, value in row.items()}


def _without_nulls(value: Any, kind: pyarrow.DataType) -> Any:
    import pyarrow

    if pyarrow.types.is_struct(kind) and isinstance(value, dict):
        return {key: each for key, each in value.items() if each is not None}
    return value


def _decoded(value: Any, kind: pyarrow.DataType) -> Any:
    """Parse the text of a value of Arrow's JSON type; return any other value unchanged."""
    import pyarrow

    return json.loads(value) if isinstance(kind, pyarrow.JsonType) and isinstance(value, str) else value


def _each_part(value: Any, kind: pyarrow.DataType | None, change: Callable[[Any, pyarrow.DataType], Any]) -> Any:
    """Return `value` with `change` applied to each of its parts, inner parts first. `kind` is the Arrow type of
    `value`; None if it has no parts."""
    import pyarrow

    if kind is None:
        return value
    if pyarrow.types.is_struct(kind) and isinstance(value, dict):
        value = {key: _each_part(each, kind.field(key).type, change) for key, each in value.items()}
    elif _is_list(kind) and isinstance(value, list):
        value = [_each_part(each, kind.value_type, change) for each in value]
    return change(value, kind)


def _is_list(kind: pyarrow.DataType) -> bool:
    import pyarrow

    return isinstance(kind, pyarrow.ListType | pyarrow.LargeListType | pyarrow.FixedSizeListType)


def _has_parts(kind: pyarrow.DataType) -> bool:
    import pyarrow

    is_part = pyarrow.types.is_struct(kind) or isinstance(kind, pyarrow.JsonType)
    return is_part or (_is_list(kind) and _has_parts(kind.value_type))


def _typed(rows: Iterable[dict[str, Any]], schema: pyarrow.Schema) -> Iterator[ArrowRow]:
    """Yield the rows with the Arrow types of the columns that hold objects or lists of objects."""
    types = {field.name: field.type for field in schema if _has_parts(field.type)}
    kind = type("TypedRow", (ArrowRow,), {"types": types})
    return (kind(row) for row in rows)


def read_parquet(path: str) -> Iterator[tuple[str, ArrowRow]]:
    import pyarrow.parquet

    number = 0
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            encoded = [field.name for field in file.schema_arrow if "arrow.json" in str(field.type)]
            for batch in file.iter_batches(batch_size=1024):
                for row in _typed(batch.to_pylist(), batch.schema):
                    number += 1
                    for name in encoded:
                        row[name] = _each_part(row[name], row.types[name], _decoded)
                    yield f"{path}:row {number}", row
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        place = f"{path} cannot be read as Parquet after row {number}"
        raise InputError(f"{place} ({_one_line(error)}): write the file again") from error


def read_folder(path: str, split: str, subset: str | None) -> Iterator[tuple[str, ArrowRow]]:
    """Rows of a folder that was saved by `datasets` or that it can load. Columns of images or sound are decoded."""
    import datasets

    loaded = _load_folder(path, split, subset)
    number = 0
    try:
        for row in _typed(loaded, loaded.features.arrow_schema):
            number += 1
            yield f"{path}:row {number}", row
    except _errors() as error:
        decoded = [name for name, kind in loaded.features.items() if datasets.features.features.require_decoding(kind)]
        columns = f"its column {' or '.join(decoded)}" if decoded else "a column"
        raise InputError(
            f"{path}:row {number + 1}: {columns} cannot be decoded ({_one_line(error)}): remove the column "
            "(remove_columns of datasets), or write the row again"
        ) from error


def _load_folder(path: str, split: str, subset: str | None) -> Any:
    import datasets

    is_saved = any(Path(path, name).exists() for name in _SAVED_BY_DATASETS)
    if is_saved and subset is not None:
        raise InputError(f"subset={subset}: {path} was saved by datasets and has no configurations; set subset to null")
    try:
        if not is_saved:
            _check_subset(path, subset)
            return datasets.load_dataset(path, name=subset, split=split)
        saved = datasets.load_from_disk(path).with_format(None)  # the format may be numpy or torch
    except InputError:
        raise
    except _errors() as error:
        reason = f"{_one_line(error)}; {_one_line(error.__cause__)}" if error.__cause__ else _one_line(error)
        raise InputError(f"{path} cannot be loaded by datasets with split={split} ({reason}): {FORMS}") from error
    if not isinstance(saved, datasets.DatasetDict):
        own = None if saved.split is None else str(saved.split)
        if split not in (DEFAULT_SPLIT, own):
            has = f"one split, '{own}'" if own else "no splits"
            raise InputError(f"split={split}: {path} was saved with {has}; set split={own or DEFAULT_SPLIT}")
        return saved
    if split not in saved:
        raise InputError(f"{path} has no split '{split}', only {', '.join(saved)}: set split to one of them")
    return saved[split]


def _check_subset(path: str, subset: str | None) -> None:
    import datasets

    names = datasets.get_dataset_config_names(path)
    if subset is None and len(names) > 1:
        raise InputError(f"{path} has several configurations, {', '.join(names)}: set subset to one of them")
    if subset is not None and subset not in names:
        raise InputError(f"subset={subset}: {path} has only {', '.join(names)}; set subset to one of them, or to null")


def _errors() -> tuple[type[Exception], ...]:
    """Return the errors that `datasets` raises for files and columns it cannot read: RuntimeError for loading scripts
    and sound, ImportError for the package that decodes a column."""
    from datasets.exceptions import DatasetsError

    return (DatasetsError, OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, RuntimeError, ImportError)


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()).rstrip(".")

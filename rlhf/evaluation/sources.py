"""Rows of a suite: from files, made freshly, or from files whose right answers are in others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rlhf.data.arrow import DEFAULT_SPLIT
from rlhf.evaluation.files import Rows, read_rows
from rlhf.evaluation.procedural import make_rows
from rlhf.evaluation.reasoning_gym import make_reasoning_gym_rows
from rlhf.lookup import bind_options
from rlhf.types import InputError

MAKERS = {"procedural": make_rows, "reasoning_gym": make_reasoning_gym_rows}
"""Functions that make fresh rows of a task, by the word before the colon of a suite's path."""
JOINED_BY = "id"


def below(path: str, root: str | None) -> str:
    """Return a path below the root; a name of fresh items stays."""
    return path if root is None or maker_of(path) is not None else str(Path(root) / path)


def maker_of(path: str) -> str | None:
    """Return the kind of fresh items that a path names; None for files."""
    kind, colon, _ = path.partition(":")
    return kind if colon and kind in MAKERS else None


def read_source(
    path: str,
    options: Mapping[str, Any],
    *,
    joined: str | None,
    files: str | None,
    columns: Sequence[str],
    split: str = DEFAULT_SPLIT,
    subset: str | None = None,
) -> Rows:
    """Yield `(where, row)` for each row of a suite's data.

    `joined` is the data whose fields are added to the rows of the same id. Raises InputError for data that cannot be
    read, options that nothing takes, and a row without its other half.
    """
    kind = maker_of(path)
    if kind is None:
        if options:
            raise InputError(f"source_options={dict(options)}: {path} is a file, which has none; leave them out")
        rows = read_rows(path, files=files, columns=columns, split=split, subset=subset)
        yield from rows if joined is None else join(rows, read_rows(joined, files=files, columns=columns), joined)
        return
    if joined is not None or files is not None:
        raise InputError(f"path={path}, joined={joined}, files={files}: fresh items have no files; leave them out")
    yield from bind_options("items", path, MAKERS[kind], ("task",), "source_options", options)(path.partition(":")[2])


def join(rows: Rows, others: Rows, name: str) -> Rows:
    """Yield the rows with the fields of the others of the same id. Raises InputError for a row without one."""
    by_id = {str(row.get(JOINED_BY)): row for _, row in others}
    for where, row in rows:
        own = str(row.get(JOINED_BY))
        if own not in by_id:
            raise InputError(
                f"{where}: joined={name} has no row whose {JOINED_BY} is {own!r}: give the other file of the same data"
            )
        yield where, {**by_id[own], **row}

"""The source of rows: settings that the data of every command share."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Self

from omegaconf import MISSING

from rlhf.data.fields import require_positive
from rlhf.data.files import Refuse, Row, raise_at, read_rows, splits_of


@dataclass(kw_only=True, slots=True)
class SourceConfig:
    """Rows in a file."""

    path: str = MISSING
    """A .jsonl or .parquet file, a folder that datasets can load, or a data set of the Hub: `owner/name`,
    `owner/name@REVISION`, or one file or folder in it, `owner/name@REVISION:train.jsonl`. With `reader` a file or
    folder in any form."""
    split: str = "train"
    """Split of a folder; a file has none."""
    subset: str | None = None
    """Configuration of a dataset with several; None: the only one."""
    reader: str | None = None
    """A function that reads a form of your own, as `package.module:function` or `/path/file.py:function`: called with a
    path, it yields one dict per row, the same rows at each start. It reads held-out files too. None: the path's suffix
    decides."""
    limit: int | None = None
    """Number of rows to read, from the first. None: all."""

    def __post_init__(self) -> None:
        require_positive(limit=self.limit)

    def at(self, path: str) -> Self:
        """Return these settings for all rows of another file, the held-out one."""
        split, subset = splits_of(path, self.split, self.subset)
        return replace(self, path=path, split=split, subset=subset, limit=None)

    def rows(self, refuse: Refuse = raise_at) -> Iterator[tuple[str, Row]]:
        """Yield `(where, row)` for all rows of the file, whatever `limit` is. Raises InputError."""
        return read_rows(self.path, self.split, refuse, subset=self.subset, reader=self.reader)

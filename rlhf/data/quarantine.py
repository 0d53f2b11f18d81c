"""Bad rows: the first one is an error, or they are set aside and counted, up to a maximum share."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from rlhf.data.arrow import without_padding
from rlhf.data.fields import BadRow, Defect, Fields
from rlhf.data.files import Row, raise_at
from rlhf.types import InputError

T = TypeVar("T")

REJECTS = "rejects.jsonl"


class BadRows(StrEnum):
    """Treatment of bad rows."""

    strict = "strict"
    """The first one stops the run."""
    quarantine = "quarantine"
    """Bad rows are left out and written to `rejects.jsonl`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reject:
    """A row that is left out."""

    source: str
    """Place of the row, as `file:line`."""
    defect: Defect
    reason: str
    row: object
    """The row: an object, or text if it is no JSON object."""


@dataclass(slots=True)
class Quarantine:
    """The bad rows of a run's data, over all its files."""

    bad_rows: BadRows = BadRows.strict
    max_rejected_fraction: float = 0.0
    """Largest share of one file's rows that may be bad; a larger share is an InputError."""
    rejects: list[Reject] = field(default_factory=list)
    unread: dict[str, list[str]] = field(default_factory=dict)
    """Unread fields of the rows, by file."""

    def refuse(self, where: str, row: object, error: InputError) -> None:
        if self.bad_rows is BadRows.strict:
            raise_at(where, row, error)
        defect = error.defect if isinstance(error, BadRow) else Defect.malformed
        self.rejects.append(Reject(source=where, defect=defect, reason=str(error), row=row))

    def collect(
        self,
        rows: Iterable[tuple[str, Row]],
        make: Callable[[str, Mapping[str, Any]], Iterable[T]],
        limit: int | None,
        *,
        source: str,
    ) -> list[T]:
        """Collect the results of `make(where, row)` for the rows of the file `source`, at most `limit`, in order.

        Raises InputError at the first bad row or, in quarantine, if too many rows or all of them are bad.
        """
        made: list[T] = []
        num_rows, before = 0, len(self.rejects)
        there: dict[str, None] = {}
        read: set[str] = set()
        for where, row in islice(rows, limit):
            num_rows += 1
            there.update(dict.fromkeys(key for key, value in row.items() if value is not None))
            try:
                # `list` first: a row that fails midway adds nothing.
                made += list(make(where, Fields(without_padding(row), read)))
            except InputError as error:
                self.refuse(where, row, error)
        if unread := [key for key in there if key not in read]:
            self.unread[source] = unread
        rejected = self.rejects[before:]
        # `read_rows` has refused the lines that are no JSON object, so `rows` did not contain them.
        num_rows += sum(not isinstance(reject.row, dict) for reject in rejected)
        if len(rejected) > self.max_rejected_fraction * num_rows:
            first = rejected[0]
            raise InputError(
                f"{len(rejected)} of {num_rows} rows are bad ({_listed(rejected)}), more than max_rejected_fraction="
                f"{self.max_rejected_fraction}; the first is {first.source}: {first.reason}"
            )
        return made

    def summary(self) -> dict[str, int]:
        """Count the rejected rows by defect."""
        return dict(Counter(str(reject.defect) for reject in self.rejects))

    def write(self, folder: Path) -> None:
        """Write the rejected rows, if any, each with its place and the reason, to `rejects.jsonl`."""
        if not self.rejects:
            return
        with (folder / REJECTS).open("w", encoding="utf-8") as file:
            for reject in self.rejects:
                file.write(_line(reject) + "\n")


def _line(reject: Reject) -> str:
    # Not `asdict`, which copies the row: a reader's may hold what cannot be copied, such as an open file.
    record = {field.name: getattr(reject, field.name) for field in dataclasses.fields(reject)}
    try:
        return json.dumps(record, ensure_ascii=False, default=str, allow_nan=False)
    except ValueError:  # Parquet has NaN and JSON has none: the row as text
        return json.dumps({**record, "row": str(record["row"])}, ensure_ascii=False)


def _listed(rejects: list[Reject]) -> str:
    return ", ".join(f"{defect} {count}" for defect, count in Counter(each.defect for each in rejects).most_common())

"""Export feedback as training data; the command is `launch/export_feedback.py`."""

from __future__ import annotations

import json
import socket
import sys
import time
import uuid
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

from omegaconf import MISSING

from rlhf.config import from_words
from rlhf.data.dialogues import check_turns
from rlhf.data.fields import BadRow, Defect, empty
from rlhf.data.messages import take_prompt
from rlhf.data.quarantine import REJECTS
from rlhf.train.artifact import MANIFEST, Artifact, committing, describe, open_artifact, settled
from rlhf.types import InputError
from serve.feedback.labels import FeedbackRow, Opinion, demonstrations, labelled, pairs, read_opinions
from serve.feedback.user_shares import largest_share, within_shares
from serve.store.exports import Export, Exports
from serve.store.records import Feedback, Request
from serve.store.requests import Requests
from serve.store.store import Store
from serve.store.variants import Variants

ROWS = "rows.jsonl"
FORGOTTEN = "forgotten"
"""Key of a manifest that lists removals from an export: time, rows, the manifest before, models."""


class RowKind(StrEnum):
    """Training method of the exported rows."""

    pairs = "pairs"
    """`prompt`, `chosen`, `rejected`: reward models, DPO and similar losses."""
    labelled = "labelled"
    """`prompt`, `completion`, `label`: KTO."""
    sft = "sft"
    """`prompt`, `response`: supervised fine-tuning."""


@dataclass(kw_only=True, slots=True)
class ExportConfig:
    """Selection of the feedback that is exported."""

    since: float | None = None
    """Unix seconds of the earliest request. None: no lower limit."""
    until: float | None = None
    """Unix seconds before which requests must arrive. None: no upper limit."""
    variant: str | None = None
    """Name of the model whose answers are exported. None: all models."""
    regenerations: bool = False
    """Pair a regenerated answer that was voted up with the answer that it replaced."""
    max_per_user: int = 200
    """Largest number of rows of one user; the earliest stay."""
    max_user_share: float = 0.1
    """Largest share of the exported rows that one user may have; the earliest stay. With fewer than
    1 / `max_user_share` users the limit cannot hold: one row per user stays, and `largest_user_share` in the manifest
    exceeds it."""

    def __post_init__(self) -> None:
        if self.max_per_user < 1:
            raise InputError(f"max_per_user={self.max_per_user} leaves nothing: give at least 1")
        if not 0 < self.max_user_share <= 1:
            raise InputError(f"max_user_share={self.max_user_share}: give more than 0 and at most 1, as in 0.1")


@dataclass(kw_only=True, slots=True)
class ExportRunConfig(ExportConfig):
    """Export of feedback as training rows: `launch/export_feedback.py pairs`, `labelled` or `sft`."""

    url: str = MISSING
    """SQLAlchemy URL of the store."""
    output: str = MISSING
    """Folder to create; it must not exist yet."""


@dataclass(frozen=True, slots=True)
class Reject:
    """Feedback that was left out, and the reason."""

    reason: str
    requests: tuple[Request, ...]
    events: tuple[Feedback, ...] = ()


def export(store: Store, kind: RowKind, folder: Path, config: ExportConfig) -> Artifact:
    """Write `rows.jsonl` and `rejects.jsonl` into the new `folder`, equal for equal stores.

    Each row has the columns of its kind, `source`, `request_ids` and `event_ids`. Raises InputError if the folder
    exists or no row is left.
    """
    if folder.exists():
        # Committing would replace the existing folder, whatever its contents.
        raise InputError(f"output={folder}: it exists already; set output to another folder")
    rows, rejects = collect(store.requests, kind, config)
    reasons = dict(sorted(Counter(reject.reason for reject in rejects).items()))
    if not rows:
        listed = ", ".join(f"{reason} {count}" for reason, count in reasons.items()) or "there is no feedback"
        raise InputError(
            f"{folder}: no rows of kind {kind} are left ({listed}); gather more feedback, or widen since, until and "
            "variant"
        )
    manifest = {
        "kind": "feedback",
        "rows": str(kind),
        "parents": parents_of(store.variants, rows),
        "config": asdict(config),
        "time_range": [min(event.at for row in rows for event in row.events), max(row.at for row in rows)],
        "metrics": {
            "rows": len(rows),
            "users": len({request.user for row in rows for request in row.requests}),
            "largest_user_share": largest_share(rows),
            "sources": dict(sorted(Counter(row.source for row in rows).items())),
            "rejects": reasons,
        },
    }
    users = {request.id: request.user for row in rows for request in row.requests}
    with register_export(store.exports, folder, users), committing(folder, manifest) as staging:
        write_lines(staging / ROWS, ({**row.content, "source": row.source, **origin(row)} for row in rows))
        write_lines(staging / REJECTS, ({"reason": reject.reason, **origin(reject)} for reject in rejects))
    return open_artifact(folder)


@contextmanager
def register_export(exports: Exports, folder: Path, users: Mapping[str, str]) -> Iterator[None]:
    """Register an export in the store before the block writes it, so that a withdrawal meanwhile finds it.

    `users`: the user of each request behind the rows, by request id.
    """
    export = Export(
        id=uuid.uuid4().hex,
        host=socket.gethostname(),
        # A stage of a pipeline writes the export into a staging folder, which is committed later.
        folder=str(settled(folder.resolve())),
        manifest=None,
        at=time.time(),
    )
    exports.add(export, users)
    try:
        yield
    except BaseException:
        exports.remove(export.id)
        raise
    exports.update(replace(export, manifest=describe(folder / MANIFEST)["sha256"]))


def parents_of(variants: Variants, rows: Iterable[FeedbackRow]) -> list[dict[str, Any]]:
    """Return the models whose answers the rows contain."""
    folders = {variant.name: variant.folder for variant in variants.all()}
    answered = sorted({(request.variant, request.version) for row in rows for request in row.requests})
    return [{"path": folders.get(name), "variant": name, "version": version} for name, version in answered]


def collect(stored: Requests, kind: RowKind, config: ExportConfig) -> tuple[list[FeedbackRow], list[Reject]]:
    """Return the rows in order of time, and the rejects."""
    rejects: list[Reject] = []
    opinions: list[Opinion] = []
    requests: list[Request] = []

    def refuse(reason: str, left_out: Iterable[Opinion]) -> None:
        rejects.extend(Reject(reason, (opinion.request,), (opinion.event,)) for opinion in left_out)

    for request, events in stored.dialogues(since=config.since, until=config.until, variant=config.variant):
        reason = reject_reason(request)
        if reason is None:
            opinions += read_opinions(request, events)
            requests.append(request)
        elif events or reason != "no_consent":
            rejects.append(Reject(reason, (request,), tuple(events)))
    match kind:
        case RowKind.pairs:
            rows = pairs(opinions, requests, refuse, regenerations=config.regenerations)
        case RowKind.labelled:
            rows = labelled(opinions, refuse)
        case RowKind.sft:
            rows = demonstrations(opinions, refuse)
    rows.sort(key=lambda row: (row.at, *origin(row).values(), to_line(row.content)))
    kept, cut = within_shares(deduplicate(rows, rejects), max_rows=config.max_per_user, max_share=config.max_user_share)
    rejects += [Reject("flood", row.requests, row.events) for row in cut]
    return kept, rejects


def reject_reason(request: Request) -> str | None:
    """Return the reason why the request's answers cannot be exported; None if they can."""
    if request.shadow_of is not None:
        return "shadow"
    if request.status != 200 or request.error is not None:
        return "failed"
    if request.sampling.get("echo"):
        # The answers of an echoing completion begin with the prompt.
        return "echo"
    if request.messages is None:
        return "no_text" if any(response.text is not None for response in request.responses) else "no_consent"
    if any(response.tool_calls for response in request.responses):
        # Rows have no column for tool calls, and the texts alone would teach the model to answer without calls.
        return "tool_calls"
    return None


def deduplicate(rows: Sequence[FeedbackRow], rejects: list[Reject]) -> list[FeedbackRow]:
    """Return the rows that trainers can load, without duplicates; the others are added to `rejects`."""
    kept: dict[str, FeedbackRow] = {}
    for row in rows:
        defect = defect_of(row)
        if defect is None and to_line(row.content) in kept:
            defect = "duplicate"
        if defect is None:
            kept[to_line(row.content)] = row
        else:
            rejects.append(Reject(defect, row.requests, row.events))
    return list(kept.values())


def defect_of(row: FeedbackRow) -> str | None:
    """Return the reason why a trainer would refuse the row; None if it would accept it."""
    try:
        prompt = take_prompt(row.content, "prompt", remedy="")
        for name, answer in row.content.items():
            if isinstance(answer, str) and not answer.strip():
                raise empty(name)
        check_turns(prompt, "prompt")
    except BadRow as error:
        return str(error.defect)
    except InputError:
        return str(Defect.malformed)
    return None


def trace(requests: Requests, folder: Path, row: int) -> list[tuple[Request, list[Feedback]]]:
    """Return the requests behind a row of an exported folder, counted from 0, each with the events that produced the
    row. Records that were deleted since then are missing."""
    artifact = open_artifact(folder)
    # Splits bytes, not text: a text may contain characters that str.splitlines takes for line ends.
    lines = (artifact.folder / ROWS).read_bytes().splitlines()
    if not 0 <= row < len(lines):
        raise InputError(f"{folder}: it has rows 0 to {len(lines) - 1}, no row {row}")
    content = json.loads(lines[row])
    found = [requests.dialogue(request_id) for request_id in content["request_ids"]]
    return [
        (request, [event for event in events if event.id in content["event_ids"]])
        for request, events in (each for each in found if each)
    ]


def origin(traced: FeedbackRow | Reject) -> dict[str, list[str]]:
    return {
        "request_ids": [request.id for request in traced.requests],
        "event_ids": [event.id for event in traced.events],
    }


def to_line(row: dict[str, Any]) -> str:
    return json.dumps(row, ensure_ascii=False)


def write_lines(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    with path.open("w", encoding="utf-8") as file:
        file.writelines(to_line(row) + "\n" for row in rows)


def run(words: list[str]) -> None:
    """Export rows of the kind and with the keys in `words`. Raises InputError for an unknown kind or key."""
    kinds = ", ".join(RowKind)
    if not words or words[0] not in list(RowKind):
        raise InputError(
            f"give the kind of rows first, one of {kinds}: python launch/export_feedback.py pairs url=... output=..."
        )
    fields = asdict(from_words(words[1:], ExportRunConfig))
    store = Store(fields.pop("url"))
    artifact = export(store, RowKind(words[0]), Path(fields.pop("output")), ExportConfig(**fields))
    store.close()
    metrics = artifact.manifest["metrics"]
    left_out = ", ".join(f"{count} {reason}" for reason, count in metrics["rejects"].items()) or "nothing"
    sys.stdout.write(f"{artifact.folder / ROWS}: {metrics['rows']} rows; left out: {left_out}\n")

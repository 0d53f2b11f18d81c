"""Removal of the rows of users who were deleted or withdrew consent from exports, for `launch/forget.py`."""

from __future__ import annotations

import json
import shutil
import socket
import sys
import time
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from omegaconf import MISSING

from rlhf.config import from_words
from rlhf.data.quarantine import REJECTS
from rlhf.train.artifact import (
    MANIFEST,
    Artifact,
    committing,
    describe,
    files_in,
    open_artifact,
    replaced_of,
    staging_of,
)
from rlhf.types import InputError, RunError
from serve.feedback.descendants import ArtifactNode, artifacts_in, descendants
from serve.feedback.export import FORGOTTEN, ROWS
from serve.store.exports import Export, Exports
from serve.store.requests import Requests
from serve.store.store import Store
from serve.store.variants import Variants

Lines = list[tuple[bytes, dict[str, Any]]]
"""Lines of a JSONL file, as bytes and parsed."""


@dataclass(kw_only=True, slots=True)
class ForgetConfig:
    """Removal of users' rows from exports: `launch/forget.py`."""

    url: str = MISSING
    """SQLAlchemy URL of the store."""
    roots: list[str] = field(default_factory=lambda: ["outputs"])
    """Folders to search for models made from these exports, in addition to those that the store knows."""
    folders: list[str] = field(default_factory=list)
    """Exports that the store does not know at their path: moved ones, copies, and those of earlier versions, which were
    not registered."""
    gone: list[str] = field(default_factory=list)
    """Folders of exports that were removed and have no copy: they are deleted from the store's list."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ForgetResult:
    """The result of removing rows from one export."""

    folder: Path
    removed: int = 0
    left: int = 0
    """Rows."""
    request_ids: frozenset[str] = frozenset()
    """Requests behind the remaining rows."""
    models: tuple[str, ...] = ()
    """Artifacts made from the export while it had the removed rows."""
    problem: str | None = None
    """Reason why the export still has such rows; None if it has none."""

    def __str__(self) -> str:
        state = self.problem or f"{self.removed} rows removed, {self.left} stay"
        models = ", ".join(self.models) or "none found"
        return f"{self.folder}: {state}; made from it with those rows: {models}"


def forget(store: Store, config: ForgetConfig) -> list[ForgetResult]:
    """Rewrite every export that has rows of users who withdrew, and report those that cannot be reached.

    The other rows and their order stay, byte for byte. Raises InputError if a folder in `roots`, `folders` or `gone` is
    not of the kind that the key requires.
    """
    artifacts = find_artifacts(store.variants, config.roots)
    remove_gone(store.exports, config.gone)
    outcomes = [forget_moved(store, Path(folder).resolve(), artifacts) for folder in config.folders]
    for export in store.exports.to_forget():
        # Resolves links: renaming a link would leave the rows in its target.
        folder = Path(export.folder).resolve()
        try:
            check_unchanged(export)
            outcome = rewrite(store.requests, folder, artifacts)
            update_store(store.exports, export, outcome)
        except (InputError, RunError, OSError) as error:
            outcome = ForgetResult(folder=folder, problem=str(error), models=models_of(folder, artifacts))
            store.exports.update(replace(export, problem=outcome.problem))
        outcomes.append(outcome)
    return outcomes


def find_artifacts(known: Variants, roots: Collection[str]) -> list[ArtifactNode]:
    for root in roots:
        if not Path(root).is_dir():
            raise InputError(f"roots: {root} does not exist; name the folders that runs write to, or set roots=[]")
    variants = [Path(variant.folder) for variant in known.all()]
    return artifacts_in([*map(Path, roots), *(folder for folder in variants if folder.is_dir())])


def models_of(folder: Path, artifacts: Collection[ArtifactNode]) -> tuple[str, ...]:
    return tuple(f"{made.folder} ({made.kind})" for made in descendants(folder, artifacts))


def remove_gone(known: Exports, folders: Collection[str]) -> None:
    for folder in map(Path, folders):
        if folder.exists():
            raise InputError(f"gone: {folder} exists; leave it out, and rows are removed from it")
        exports = [export for export in known.all() if export.folder == str(folder.resolve())]
        if not exports:
            raise InputError(f"gone: the store knows no export in {folder}; name a folder that it lists")
        for export in exports:
            known.remove(export.id)


def forget_moved(store: Store, folder: Path, artifacts: Collection[ArtifactNode]) -> ForgetResult:
    """Rewrite an export that the store does not know at this path. If it was moved, the store gets its new path."""
    before = manifest_hashes(folder)
    outcome = rewrite(store.requests, folder, artifacts)
    for export in store.exports.all():
        if export.manifest in before and not Path(export.folder).exists():
            update_store(store.exports, replace(export, folder=str(folder), host=socket.gethostname()), outcome)
    return outcome


def check_unchanged(export: Export) -> None:
    """Raise InputError if the export no longer exists at its path."""
    remedy = "name it in folders if it was moved, or in gone if it was removed and no copy is left"
    if not Path(export.folder).is_dir():
        raise InputError(f"{export.folder} on {export.host} does not exist: {remedy}")
    if export.manifest is not None and export.manifest not in manifest_hashes(Path(export.folder)):
        raise InputError(f"{export.folder} is another export than the registered one: {remedy}")


def manifest_hashes(folder: Path) -> set[str]:
    """Return the sha256 of the manifest, and of its versions before rows were removed."""
    file = folder / MANIFEST
    if not file.is_file():
        return set()
    try:
        earlier = [each["manifest"] for each in json.loads(file.read_bytes()).get(FORGOTTEN, ())]
    except (ValueError, TypeError, AttributeError, KeyError):
        remedy = "restore it, or remove the folder and name it in gone"
        raise InputError(f"{file} is no manifest of an export: {remedy}") from None
    return {describe(file)["sha256"], *earlier}


def update_store(exports: Exports, export: Export, outcome: ForgetResult) -> None:
    manifest = describe(outcome.folder / MANIFEST)["sha256"]
    exports.update(replace(export, manifest=manifest, problem=None))
    exports.set_requests(export.id, outcome.request_ids)


def rewrite(requests: Requests, folder: Path, artifacts: Collection[ArtifactNode]) -> ForgetResult:
    """Write the export again without the rows of requests that were deleted or whose text was removed.

    Raises InputError if the folder is no export, or a file differs from the manifest.
    """
    artifact = open_artifact(folder)
    if artifact.manifest.get("kind") != "feedback":
        raise InputError(f"{folder}: it is no export of feedback; name the folder that holds {ROWS}")
    rows, rejects = (read_lines(folder / name) for name in (ROWS, REJECTS))
    users = requests.readable(requests_of(rows))
    present = requests.present(requests_of(rejects))
    kept = [(line, row) for line, row in rows if users.keys() >= set(row["request_ids"])]
    outcome = ForgetResult(
        folder=folder,
        removed=len(rows) - len(kept),
        left=len(kept),
        request_ids=frozenset(requests_of(kept)),
        models=models_of(folder, artifacts),
    )
    if outcome.removed:
        rejects = [(line, reject) for line, reject in rejects if present.keys() >= set(reject["request_ids"])]
        num_users = len({users[id] for id in outcome.request_ids})
        replace_export(artifact, new_manifest(artifact, kept, rejects, num_users, outcome), kept, rejects)
    if replaced_of(folder).exists():
        # A killed run left this folder, which still has the old rows.
        shutil.rmtree(replaced_of(folder))
    for outer in folder.parents:
        update_outer_manifest(outer, folder)
    return outcome


def new_manifest(
    artifact: Artifact, rows: Lines, rejects: Lines, num_users: int, outcome: ForgetResult
) -> dict[str, Any]:
    """Return the manifest of the remaining rows. The largest share of a user is no longer known."""
    metrics = {
        **{key: value for key, value in artifact.manifest["metrics"].items() if key != "largest_user_share"},
        "rows": len(rows),
        "users": num_users,
        "sources": dict(sorted(Counter(row["source"] for _, row in rows).items())),
        "rejects": dict(sorted(Counter(reject["reason"] for _, reject in rejects).items())),
    }
    taken = {
        "at": time.time(),
        "rows": outcome.removed,
        "manifest": describe(artifact.folder / MANIFEST)["sha256"],
        "models": list(outcome.models),
    }
    return {**artifact.manifest, "metrics": metrics, FORGOTTEN: [*artifact.manifest.get(FORGOTTEN, ()), taken]}


def replace_export(artifact: Artifact, manifest: dict[str, Any], rows: Lines, rejects: Lines) -> None:
    """Replace the folder by one rename. Files that are not part of the export stay."""
    folder = artifact.folder
    with committing(folder, manifest) as staging:
        for file in files_in(folder):
            target = staging / file.relative_to(folder)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(file, target)
        for name, lines in ((ROWS, rows), (REJECTS, rejects)):
            (staging / name).write_bytes(b"".join(line for line, _ in lines))
        (staging / MANIFEST).unlink()


def update_outer_manifest(outer: Path, folder: Path) -> None:
    """Update the manifest of an artifact that contains the export, such as a stage of a pipeline."""
    file = outer / MANIFEST
    if not file.is_file():
        return
    manifest = json.loads(file.read_text(encoding="utf-8"))
    files = {str(each.relative_to(outer)): describe(each) for each in files_in(folder)}
    known = {name: each for name, each in manifest.get("files", {}).items() if folder in (outer / name).parents}
    if known and known != files:
        manifest["files"] = {name: each for name, each in manifest["files"].items() if name not in known} | files
        staging = staging_of(file)
        staging.write_text(json.dumps(manifest, indent=1, allow_nan=False), encoding="utf-8")
        staging.replace(file)


def requests_of(lines: Lines) -> set[str]:
    return {id for _, each in lines for id in each["request_ids"]}


def read_lines(file: Path) -> Lines:
    return [(line, json.loads(line)) for line in file.read_bytes().splitlines(keepends=True)]


def run(words: list[str]) -> None:
    """Remove rows as the keys in `words` say. Raises RunError if an export still has rows of users who withdrew."""
    config = from_words(words, ForgetConfig)
    store = Store(config.url)
    outcomes = forget(store, config)
    store.close()
    sys.stdout.write("".join(f"{outcome}\n" for outcome in outcomes) or "no export holds rows of users who withdrew\n")
    left = [str(outcome.folder) for outcome in outcomes if outcome.problem]
    if left:
        raise RunError(f"{len(left)} exports still hold rows of users who withdrew ({', '.join(left)}): see above")

"""Folders that say what they are: complete or absent, with a manifest of hashes."""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlhf.types import InputError

MANIFEST = "manifest.json"
HASH_CHUNK_BYTES = 1 << 24


@dataclass(frozen=True, slots=True, kw_only=True)
class Artifact:
    """A committed folder: a model, a checkpoint or a data set."""

    folder: Path
    manifest: Mapping[str, Any]
    """`kind`, `auto_class`, `parents`, `config`, `metrics` and `files` with their sizes and sha256."""


@contextmanager
def committing(folder: Path, manifest: Mapping[str, Any]) -> Iterator[Path]:
    """A folder to write into, which becomes `folder` by one rename when the block ends well, else disappears.

    The manifest lists every file with its size and sha256; all of it is on disk before the rename.
    """
    staging, replaced = staging_of(folder), folder.with_name(f".old-{folder.name}")
    shutil.rmtree(staging, ignore_errors=True)
    shutil.rmtree(replaced, ignore_errors=True)
    staging.mkdir(parents=True)
    try:
        yield staging
        files = {
            str(path.relative_to(staging)): describe(path) for path in sorted(staging.rglob("*")) if path.is_file()
        }
        contents = without_nan({**manifest, "files": files})
        (staging / MANIFEST).write_text(json.dumps(contents, indent=1, allow_nan=False), encoding="utf-8")
        sync_to_disk(staging)
        if folder.exists():
            # It was refused as corrupt and is made again; its name says that it is no checkpoint any more.
            os.rename(folder, replaced)
        os.rename(staging, folder)
        sync_folder(folder.parent)
        shutil.rmtree(replaced, ignore_errors=True)
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise


def staging_of(folder: Path) -> Path:
    """Where what becomes `folder` is written."""
    return folder.with_name(f".tmp-{folder.name}")


def open_artifact(folder: Path) -> Artifact:
    """The artifact in `folder`, every byte checked against its manifest. InputError names the first that differs."""
    if not (folder / MANIFEST).is_file():
        raise InputError(
            f"{folder}: no {MANIFEST} there, so it was not committed by this project; choose another folder"
        )
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        files = manifest["files"].items()
    except (ValueError, TypeError, KeyError, AttributeError):
        raise InputError(
            f"{folder / MANIFEST}: it is not what was written; use an earlier checkpoint or restore the file"
        ) from None
    for name, expected in files:
        path = folder / name
        if not path.is_file() or describe(path) != expected:
            state = "is missing" if not path.is_file() else "is not what was written"
            raise InputError(f"{path}: it {state} (see {MANIFEST}); use an earlier checkpoint or restore the file")
    return Artifact(folder=folder, manifest=manifest)


def without_nan(value: Any) -> Any:
    """JSON has no NaN and no infinity: null in their place."""
    if isinstance(value, Mapping):
        return {key: without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def describe(path: Path) -> dict[str, Any]:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(HASH_CHUNK_BYTES):
            digest.update(chunk)
    return {"size": path.stat().st_size, "sha256": digest.hexdigest()}


def sync_to_disk(folder: Path) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
        else:
            sync_folder(path)
    sync_folder(folder)


def sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

"""Folders that say what they are: complete or absent, with a manifest of hashes."""

from __future__ import annotations

import hashlib
import json
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
    staging = folder.with_name(f".tmp-{folder.name}")
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)
    try:
        yield staging
        files = {
            str(path.relative_to(staging)): describe(path) for path in sorted(staging.rglob("*")) if path.is_file()
        }
        (staging / MANIFEST).write_text(json.dumps({**manifest, "files": files}, indent=1), encoding="utf-8")
        sync_to_disk(staging)
        os.rename(staging, folder)
        sync_folder(folder.parent)
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise


def open_artifact(folder: Path) -> Artifact:
    """The artifact in `folder`, every byte checked against its manifest. InputError names the first that differs."""
    if not (folder / MANIFEST).is_file():
        raise InputError(
            f"{folder}: no {MANIFEST} there, so it was not committed by this project; choose another folder"
        )
    manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    for name, expected in manifest["files"].items():
        path = folder / name
        if not path.is_file() or describe(path) != expected:
            state = "is missing" if not path.is_file() else "is not what was written"
            raise InputError(f"{path}: it {state} (see {MANIFEST}); use an earlier checkpoint or restore the file")
    return Artifact(folder=folder, manifest=manifest)


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

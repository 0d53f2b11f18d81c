"""Atomically committed folders with a manifest of hashes."""

from __future__ import annotations

import asyncio
import hashlib
import json
import math
import os
import re
import shutil
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from rlhf.train.disk import why_not_written
from rlhf.types import InputError

MANIFEST = "manifest.json"
STAGING = ".tmp-"
"""Prefix of the name of a folder that is being written."""
HASH_CHUNK_BYTES = 1 << 24
HASH_THREADS = 8
"""Files hashed at once: sha256 releases the GIL and is slower than a disk."""
RANK_IN_NAME = re.compile(r"zero_pp_rank_(\d+)_")

FileRecords = dict[str, dict[str, Any]]
"""Size and sha256 of files, by path."""
T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Artifact:
    """A committed folder: a model, a checkpoint or a data set."""

    folder: Path
    manifest: Mapping[str, Any]
    """`kind`, `auto_class`, `parents`, `config`, `metrics` and `files` with their sizes and sha256."""


@contextmanager
def committing(folder: Path, manifest: Mapping[str, Any], records: FileRecords | None = None) -> Iterator[Path]:
    """Yield a staging folder, which one rename turns into `folder` at the end of the block; an error removes it.

    The manifest lists every file with its size and sha256; all files are on disk before the rename. `records`, which
    the block may fill, has the files that their writers have hashed already; the others are hashed here. Raises
    RunError if the disk is full or cannot be written.
    """
    staging, replaced = staging_of(folder), replaced_of(folder)
    shutil.rmtree(staging, ignore_errors=True)
    shutil.rmtree(replaced, ignore_errors=True)
    try:
        staging.mkdir(parents=True)
        yield staging
        files = {
            str(Path(name).relative_to(staging)): each
            for name, each in complete_records(staging, records or {}).items()
        }
        contents = without_nan({**manifest, "files": files})
        (staging / MANIFEST).write_text(json.dumps(contents, indent=1, allow_nan=False), encoding="utf-8")
        sync(staging / MANIFEST)
        for inner in (path for path in staging.rglob("*") if path.is_dir()):
            sync(inner)
        sync(staging)
        if folder.exists():
            # The existing folder was refused as corrupt; its new name is not that of a checkpoint.
            os.rename(folder, replaced)
        os.rename(staging, folder)
        sync(folder.parent)
        shutil.rmtree(replaced, ignore_errors=True)
    except BaseException as error:
        problem = why_not_written(folder, error) if isinstance(error, Exception) else None
        shutil.rmtree(staging, ignore_errors=True)
        if problem:
            raise problem from error
        raise


@asynccontextmanager
async def off_loop(manager: AbstractContextManager[T]) -> AsyncIterator[T]:
    """Enter and exit a context manager in a thread, since committing hashes files and waits for disks."""
    value = await asyncio.to_thread(manager.__enter__)
    try:
        yield value
    except BaseException as error:
        if not await asyncio.to_thread(manager.__exit__, type(error), error, error.__traceback__):
            raise
    else:
        await asyncio.to_thread(manager.__exit__, None, None, None)


def complete_records(staging: Path, known: FileRecords) -> FileRecords:
    """Return the records of all files in a folder, sorted by name; files without a known record are hashed."""
    paths = files_in(staging)
    made = record([path for path in paths if known.get(str(path), {}).get("size") != path.stat().st_size])
    return {str(path): made.get(str(path)) or known[str(path)] for path in paths}


def record(paths: Sequence[Path]) -> FileRecords:
    """Hash files and wait until they are on disk, several at once; called on the writer's node, whose cache has
    them."""

    def hash_and_sync(path: Path) -> dict[str, Any]:
        described = describe(path)
        sync(path)
        return described

    with ThreadPoolExecutor(HASH_THREADS) as pool:
        return dict(zip(map(str, paths), pool.map(hash_and_sync, paths), strict=True))


def files_in(folder: Path) -> list[Path]:
    return [path for path in sorted(folder.rglob("*")) if path.is_file()]


def files_of_rank(folder: Path, rank: int) -> list[Path]:
    """Return a rank's files in a folder that all ranks wrote into: those that DeepSpeed named after the rank; all
    others are rank 0's."""
    named = {path: RANK_IN_NAME.search(path.name) for path in files_in(folder)}
    return [path for path, found in named.items() if (int(found[1]) if found else 0) == rank]


def replaced_of(folder: Path) -> Path:
    """Return the new name of a folder that is being replaced; it remains if its removal is interrupted."""
    return folder.with_name(f".old-{folder.name}")


def staging_of(folder: Path) -> Path:
    """Return the folder in which `folder` is written before its commit."""
    return folder.with_name(f"{STAGING}{folder.name}")


def settled(path: Path) -> Path:
    """Return the final path of a path in staging folders, after their commit."""
    return Path(*(part.removeprefix(STAGING) for part in path.parts))


def open_artifact(folder: Path) -> Artifact:
    """Open the artifact in `folder` and check every file against its manifest. Raises InputError with the first file
    that differs."""
    if not (folder / MANIFEST).is_file():
        raise InputError(
            f"{folder}: it has no {MANIFEST}, so it was not committed by this project; choose another folder"
        )
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        files = manifest["files"].items()
    except (ValueError, TypeError, KeyError, AttributeError):
        raise InputError(f"{folder / MANIFEST}: it is damaged; use an earlier checkpoint or restore the file") from None
    check_files(folder, dict(files))
    return Artifact(folder=folder, manifest=manifest)


def check_files(folder: Path, expected: FileRecords) -> None:
    """Compare files with their records, sizes before hashes. Raises InputError with the first file that differs."""
    for name, each in expected.items():
        if not (folder / name).is_file():
            raise InputError(damage(folder / name, "is missing"))
        if (folder / name).stat().st_size != each["size"]:
            raise InputError(damage(folder / name, "is not what was written"))
    with ThreadPoolExecutor(HASH_THREADS) as pool:
        described = pool.map(describe, [folder / name for name in expected])
        for (name, each), found in zip(expected.items(), described, strict=True):
            if found != each:
                pool.shutdown(wait=False, cancel_futures=True)
                raise InputError(damage(folder / name, "is not what was written"))


def damage(path: Path, state: str) -> str:
    return f"{path}: it {state} (see {MANIFEST}); use an earlier checkpoint or restore the file"


def without_nan(value: Any) -> Any:
    """Replace NaN and infinity, which JSON lacks, by None."""
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


def sync(path: Path) -> None:
    """Wait until a file, or a folder's list of names, is on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

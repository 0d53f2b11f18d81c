"""Problems of the folders that a run writes into, in one sentence each."""

from __future__ import annotations

import errno
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rlhf.causes import causes
from rlhf.paths import expand_home
from rlhf.types import InputError, RunError

FULL = (errno.ENOSPC, errno.EDQUOT)
DISK = (*FULL, errno.EROFS, errno.EIO, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ESTALE)
"""Errors of a disk or of permissions, not of this project."""
FREE_BYTES = 1 << 16
"""A disk with fewer free bytes counts as full, since libraries that write tensors do not report it."""
HARMLESS = frozenset({"lost+found", ".gitkeep", ".gitignore", ".DS_Store"})
"""Names that a folder may hold and still count as empty."""


def root_of(path: str) -> Path:
    """Return the folder that `output` names, existing or not. Raises InputError if a file or a broken link is at its
    path."""
    place = Path(expand_home("output", path))
    with writable(path):
        if place.is_symlink() and not place.exists():
            raise InputError(
                f"output={path}: it is a link to {place.readlink()}, which does not exist (a disk that is not "
                "mounted?); create that folder, or set another output"
            )
        if place.exists() and not place.is_dir():
            raise InputError(f"output={path}: it is a file; set output to a folder")
    return place.resolve()


@contextmanager
def writable(path: str) -> Iterator[None]:
    """Convert errors of a block that creates or opens files in the folder `output` into InputError."""
    try:
        yield
    except OSError as error:
        name = str(error.filename or path)
        where = "" if len(name) > 200 or name == path else f" at {name}"
        shown = path if len(path) <= 200 else f"{path[:200]}..."
        raise InputError(
            f"output={shown}: it cannot be written ({error.strerror}{where}); set output to a folder that this user "
            "may write to, on a disk with free space"
        ) from None


def why_not_made_in(place: Path) -> int | None:
    """Return the errno that creating a file in `place` would raise; None if it is possible."""
    if not place.is_dir():
        return errno.ENOTDIR
    if os.statvfs(place).f_flag & os.ST_RDONLY:
        return errno.EROFS
    return None if os.access(place, os.W_OK | os.X_OK) else errno.EACCES


def why_not_written(folder: Path, error: BaseException) -> RunError | None:
    """Explain an error raised while a folder was written; None if neither disk nor permissions caused it."""
    number = number_of(error)
    if number in FULL or (number is None and is_full(folder)):
        return RunError(
            f"{folder}: the disk is full; the incomplete files are removed and earlier checkpoints are intact: "
            "free some space, and the same command continues"
        )
    if number is not None and number in DISK:
        return RunError(
            f"{folder}: it cannot be written ({os.strerror(number)}); earlier checkpoints are intact: repair the "
            "disk or its permissions, and the same command continues"
        )
    return None


def number_of(error: BaseException) -> int | None:
    """Return the errno behind an error; libraries in Rust (safetensors) write it into their message."""
    for cause in causes(error):
        if isinstance(cause, OSError) and cause.errno is not None:
            return cause.errno
        if match := re.search(r"\(os error (\d+)\)", str(cause)):
            return int(match[1])
    return None


def is_full(folder: Path) -> bool:
    existing = next(place for place in (folder, *folder.parents) if place.exists())
    return shutil.disk_usage(existing).free < FREE_BYTES

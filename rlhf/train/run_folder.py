"""The folder of a run: one process at a time, one configuration, checkpoints from which it continues."""

from __future__ import annotations

import dataclasses
import fcntl
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from rlhf.train.artifact import MANIFEST, Artifact, open_artifact
from rlhf.train.disk import HARMLESS, root_of, why_not_made_in, writable
from rlhf.types import InputError, RunError

CONFIG, CONFIG_DRAFT, LOCK = "config.json", ".config.json", ".lock"
MODEL, REPORT = "model", "report"
"""Subfolders of a run's results."""
RUN_STEPS = "run_steps"
"""Key in the manifest of a final model of an earlier step: the number of steps that its run took."""
RESUMABLE_KEYS = ("dry_run", "output", "train.num_steps", "stop_at_reward", "stop_window", "checkpoint.every",
                  "checkpoint.keep", "checkpoint.verify", "checkpoint.final", "validation.patience", "log.",
                  "preflight.", "placement.timeout_s", "hub.", "reward.judge.url", "reward.judge.api_key_env",
                  "reward.judge.concurrency", "reward.judge.requests_per_minute", "reward.judge.timeout_s",
                  "reward.judge.max_attempts", "reward.judge.backoff_s", "reward.judge.max_wait_s",
                  "reward.judge.prompt_price", "reward.judge.completion_price", "reward.judge.max_cost",
                  "reward.judge.max_requests")  # fmt: skip
"""Keys that may differ between a run and its continuation; those that end in a dot with all keys below."""
UPLOADED = "working_dir_files"
"""Part of the path of a Ray job's working directory, to which Ray unpacks the upload."""


@dataclass(frozen=True, slots=True)
class RunFolder:
    root: Path

    @property
    def model(self) -> Path:
        """Return the folder of the final model."""
        return self.root / MODEL

    @property
    def judge_ledger(self) -> Path:
        """Return the file in which a judge accounts for its requests and their cost."""
        return (self.root / "judge.jsonl").absolute()

    def checkpoint(self, step: int) -> Path:
        return self.root / "checkpoints" / f"step-{step:06d}"

    def best(self, num_steps: int) -> Path:
        """Return the folder of the best model so far, if that is the one after this number of steps."""
        return self.root / "best" / f"step-{num_steps:06d}"

    def bests(self) -> list[Path]:
        """Return the models that were the best when they were committed, newest and so best first."""
        return sorted((self.root / "best").glob("step-*"), reverse=True)

    def checkpoints(self) -> list[Path]:
        """Return the committed checkpoints, newest first."""
        return sorted((self.root / "checkpoints").glob("step-*"), reverse=True)

    def newest_checkpoint(self) -> Artifact | None:
        """Return the newest checkpoint whose hashes match its manifest; None if the run has no checkpoint.

        Raises InputError if checkpoints exist and all are damaged.
        """
        error: InputError | None = None
        for folder in self.checkpoints():
            try:
                return open_artifact(folder)
            except InputError as found:
                error = error or found
        if error is not None:
            raise error
        return None

    def how_to_continue(self) -> str:
        """Return a sentence on continuing a run that was stopped here."""
        saved = self.checkpoints()
        if not saved:
            return "no training step was complete, the same command begins again"
        return f"{saved[0]} is saved, the same command continues from it"

    def keep_newest(self, count: int) -> None:
        remove(self.checkpoints()[count:])

    def drop_old_bests(self) -> None:
        """Remove best models that no continuation needs: a run that continues from the newest checkpoint takes the
        steps after it again, and needs the best model of those before."""
        saved = self.checkpoints()
        remove([folder for folder in self.bests() if not saved or folder.name <= saved[0].name][1:])

    def drop_bests_after(self, num_steps: int) -> None:
        """Remove best models of steps that a continued run takes again."""
        remove([folder for folder in self.bests() if folder.name > self.best(num_steps).name])


def remove(folders: Sequence[Path]) -> None:
    for folder in folders:
        # Renamed first, so that a partly deleted folder does not look like a committed one.
        doomed = folder.rename(folder.with_name(f".old-{folder.name}"))
        shutil.rmtree(doomed)


@contextmanager
def open_run_folder(path: str, config: Mapping[str, Any], may_change: Sequence[str] = ()) -> Iterator[RunFolder]:
    """Open and lock the run's folder until the block ends.

    A new or empty folder starts a run, a folder of the same configuration continues it; `may_change` adds keys to
    `RESUMABLE_KEYS`. Raises InputError if another process holds the lock, another configuration made the folder, it has
    other contents than a run's, it cannot be written, or Ray would delete it.
    """
    root = checked_root(path)
    with hold_folder(root, path):
        check_config(root / CONFIG, path, config, may_change)
        with writable(path):
            replace_file(root / CONFIG, json.dumps(config, indent=1, ensure_ascii=False))
            remove_leftovers(root)
        try:
            yield RunFolder(root)
        except RunError:
            # Files that the ranks were writing together when one of them failed.
            remove_leftovers(root)
            raise


def look_at_run_folder(path: str, config: Mapping[str, Any], may_change: Sequence[str] = ()) -> RunFolder:
    """Return the run's folder without creating or locking it. Raises the errors of `open_run_folder`."""
    root = checked_root(path)
    check_free(root, path)
    check_config(root / CONFIG, path, config, may_change)
    return RunFolder(root)


def checked_root(path: str) -> Path:
    """Return the folder that `output` names. Raises InputError if Ray would delete it, or it has other contents than a
    run's."""
    root = root_of(path)
    if UPLOADED in root.parts:
        raise InputError(
            f"output={path}: in a Ray job that is a folder of the upload, which Ray deletes ({root}); give an absolute "
            "path that every node sees"
        )
    with writable(path):
        found = {entry.name for entry in root.iterdir()} if root.exists() else set()
    if found - {LOCK, CONFIG_DRAFT} - HARMLESS and CONFIG not in found:
        raise InputError(f"output={path}: it holds files of something else; name a new or empty folder")
    return root


@contextmanager
def hold_folder(root: Path, path: str) -> Iterator[None]:
    """Create the folder if needed, and lock it until the block ends. Raises InputError if another process holds the
    lock."""
    with writable(path):
        root.mkdir(parents=True, exist_ok=True)
        opened = (root / LOCK).open("a+")
    with opened as lock:
        take(lock, path)
        with writable(path):
            lock.truncate(0)
            lock.write(str(os.getpid()))
            lock.flush()
        yield


def check_free(root: Path, path: str) -> None:
    """Raise InputError if the folder cannot be created or written, or another process holds it, as `hold_folder`
    does."""
    with writable(path):
        existing = next(place for place in (root, *root.parents) if place.exists())
        if number := why_not_made_in(existing):
            raise OSError(number, os.strerror(number), path)
        opened = (root / LOCK).open("r+") if (root / LOCK).exists() else None
    if opened:
        with opened:
            take(opened, path)


def take(lock: IO[str], path: str) -> None:
    """Lock the folder's lock file until it is closed. Raises InputError if another process holds the lock."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.seek(0)
        raise InputError(
            f"output={path}: process {lock.read().strip()} is running there; stop it or name another folder"
        ) from None
    except OSError as error:
        raise InputError(
            f"output={path}: its file system has no locks ({error.strerror}) to exclude a second process; set "
            "output to a folder on another"
        ) from None


def remove_leftovers(root: Path) -> None:
    """Remove folders that a run left half-written. Files and links with such names are not the run's, and stay."""
    for leftover in (*root.glob("**/.tmp-*"), *root.glob("**/.old-*")):
        if leftover.is_dir() and not leftover.is_symlink():
            shutil.rmtree(leftover)


def check_config(file: Path, path: str, config: Mapping[str, Any], may_change: Sequence[str] = ()) -> None:
    """Raise InputError if the folder was made with another configuration."""
    if not file.is_file():
        return
    try:
        before, now = flatten(json.loads(file.read_text(encoding="utf-8"))), flatten(config)
    except (ValueError, AttributeError):
        raise InputError(f"{file}: it is not the configuration of a run; name a new or empty folder") from None
    changed = [key for key in sorted({*before, *now}) if before.get(key) != now.get(key)]
    changed = [key for key in changed if not is_among(key, (*RESUMABLE_KEYS, *may_change))]
    if changed:
        differences = ", ".join(f"{key} was {before.get(key)} and is {now.get(key)}" for key in changed)
        raise InputError(
            f"output={path}: it holds a run of another configuration ({differences}); name another folder, or run "
            "with the same values to continue it"
        )


def is_among(key: str, keys: Sequence[str]) -> bool:
    return any(key == each or (each.endswith(".") and key.startswith(each)) for each in keys)


def replace_file(file: Path, text: str) -> None:
    """Write a file atomically: readers never see a part of it."""
    draft = file.with_name(f".{file.name}")
    draft.write_text(text, encoding="utf-8")
    draft.replace(file)


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def replace_key(value: Any, key: str, new: str) -> Any:
    """Return a configuration, or a part of it, with another value of a key such as `data.path`, `reward.ensemble.0` or
    `policies.qwen2.5`, where `qwen2.5` is a name that the user chose.
    """
    name, _, rest = key.partition(".")
    if isinstance(value, list):
        number = int(name)
        return [*value[:number], replace_key(value[number], rest, new) if rest else new, *value[number + 1 :]]
    if isinstance(value, Mapping):
        return {**value, key: new} if key in value else {**value, name: replace_key(value[name], rest, new)}
    return dataclasses.replace(value, **{name: replace_key(getattr(value, name), rest, new) if rest else new})


def is_finished(folder: RunFolder, num_steps: int | None = None) -> bool:
    """Return whether the final model exists, made by at least `num_steps` steps; None: by any number."""
    manifest = folder.model / MANIFEST
    if not manifest.is_file() or num_steps is None:
        return manifest.is_file()
    made = json.loads(manifest.read_text(encoding="utf-8"))
    # A run that reached its target reward has ended before its last step.
    return max(made["step"], made["config"]["train"]["num_steps"] or 0) >= num_steps


def check_more_steps(folder: RunFolder, num_steps: int) -> None:
    """Raise InputError if a finished run is to take more steps but has no checkpoint to continue from."""
    manifest = folder.model / MANIFEST
    if manifest.is_file() and not is_finished(folder, num_steps) and not folder.checkpoints():
        made = json.loads(manifest.read_text(encoding="utf-8"))
        taken = made.get(RUN_STEPS, made["step"])
        raise InputError(
            f"output={folder.root}: its run ended after {taken} steps and kept no checkpoint (checkpoint.every), so it "
            f"cannot continue to {num_steps}; start a run from its model, with model={folder.model} and another output"
        )

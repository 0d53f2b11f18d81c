"""Inputs of a configuration, as paths and as hashes of their contents, and metrics of a run folder."""

from __future__ import annotations

import hashlib
import importlib.util
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rlhf.config import CLASS
from rlhf.evaluation.sources import below, maker_of
from rlhf.paths import NAMED_PATHS, PATH_LISTS, PATHS, is_function, is_set_path, is_suite_path, repo_type_of
from rlhf.train.artifact import MANIFEST, describe
from rlhf.train.run_folder import flatten, is_among
from rlhf.train.tracking import METRICS, read_rows
from rlhf.types import InputError

VOLATILE = (
    "dry_run", "output", "answers", "template_date", "checkpoint.every", "checkpoint.keep", "checkpoint.verify", "log.",
    "preflight.",
)  # fmt: skip
"""Keys excluded from the fingerprint; those that end in a dot with all keys below."""


def paths_of(config: Mapping[str, Any]) -> dict[str, str]:
    """Return the paths that a configuration reads, by key: data, models, and files of the user's functions and
    methods."""
    flat = flatten(config)
    functions: dict[str, str] = {}
    for key in (key for key in flat if is_function(key) or key == f"algorithm.{CLASS}"):
        given = flat[key] or []
        functions |= {key: given} if isinstance(given, str) else {f"{key}.{i}": spec for i, spec in enumerate(given)}
    sources = {key: source for key, spec in functions.items() if (source := source_of(spec)) is not None}
    root = flat.get("suite_root")
    data = {key: value for key, value in flat.items() if is_suite_path(key) and value and maker_of(value) is None}
    suites = {key: below(value, root) for key, value in data.items()}
    return files_of(config) | sources | suites


def files_of(config: Mapping[str, Any]) -> dict[str, str]:
    """Return the data and models that a configuration reads, by key; the key of a list's item ends in its index."""
    flat = flatten(config)
    paths = {key: flat[key] for key in PATHS if flat.get(key)}
    paths |= {key: value for key, value in flat.items() if key.startswith(NAMED_PATHS) or is_set_path(key)}
    return paths | {f"{key}.{i}": path for key in PATH_LISTS for i, path in enumerate(flat.get(key) or [])}


def model_folders(config: Mapping[str, Any]) -> list[str]:
    """Return the absolute paths of the models that a configuration reads, without duplicates."""
    models = [path for key, path in files_of(config).items() if repo_type_of(key) == "model"]
    return list(dict.fromkeys(str(Path(path).resolve()) for path in models))


def training_cost(run_folder: Path) -> tuple[float, float | None]:
    """Return seconds and tokens of a run's training steps; tokens are None if nothing is trained."""
    rows = read_rows(run_folder / METRICS)
    counted = [row for row in rows if row.get("tokens") is not None]
    seconds = sum(row["seconds/step"] for row in counted)
    return seconds, sum(row["tokens"] for row in counted) if rows else None


def read_json(file: Path) -> Any:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except ValueError:
        raise InputError(f"{file}: the file is damaged, it is not JSON; remove its stage's folder") from None


def source_of(function: str) -> str | None:
    """Return the file of `package.module:function` or `/path/file.py:function`; None if it does not exist."""
    place = function.rpartition(":")[0]
    if place.endswith(".py"):
        return place
    try:
        found = importlib.util.find_spec(place) if place else None
    except ModuleNotFoundError:
        return None  # the later call of the function raises a better error
    return found.origin if found else None


def hashes_of(paths: Mapping[str, str], commits: Mapping[str, str]) -> dict[str, str]:
    """Return the sha256 of each input by key, or its commit on the Hub. Raises InputError if an input does not
    exist."""
    return {
        key: commits[key] if key in commits else content_hash(key, Path(path).expanduser())
        for key, path in paths.items()
    }


def content_hash(key: str, path: Path) -> str:
    """Return the sha256 of a file, of a folder's manifest, or of all files of a folder without a manifest."""
    if path.is_file():
        return str(describe(path)["sha256"])
    if not path.is_dir():
        raise InputError(f"{key}={path}: it does not exist; correct the path, or let a stage make it (needs)")
    if (path / MANIFEST).is_file():
        return str(describe(path / MANIFEST)["sha256"])
    files = {str(file.relative_to(path)): describe(file) for file in sorted(path.rglob("*")) if file.is_file()}
    return sha256(files)


def fingerprint(kind: str, config: Mapping[str, Any]) -> str:
    """Return the sha256 of everything that determines a stage's artifact: kind, configuration, and `inputs` in it.

    The folder of an input is excluded, its name is included: ids of prompts, and so their seeds, contain the file's
    name.
    """
    inputs = config.get("inputs") or {}
    flat = {key: value for key, value in flatten(config).items() if not is_among(key, VOLATILE)}
    named = {key: Path(flat[key]).name for key in inputs if key in flat and key != "function"}
    return sha256({"kind": kind, **flat, **named})


def sha256(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, ensure_ascii=False).encode()).hexdigest()

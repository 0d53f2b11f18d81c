"""Models that can be served: what is in their folders, and whether it still is."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from rlhf.train.artifact import MANIFEST, describe, open_artifact
from rlhf.types import InputError
from serve.store.records import Variant

ADAPTER = "adapter_config.json"


def register(name: str, folder: str, known: Iterable[Variant], at: float) -> Variant:
    """Return a folder as a variant, its files hashed; an adapter beside the variant it was trained on.

    Raises InputError if the folder holds no model, if its manifest differs from its files, or if an adapter's model is
    none of those `known`.
    """
    root = Path(folder).expanduser().resolve()
    if not (root / "config.json").is_file() and not is_adapter(root):
        raise InputError(f"models.{name}={folder}: it has neither config.json nor {ADAPTER}; name a model's folder")
    # Every byte that a manifest lists has been read by then; a large model is not read twice.
    verified = open_artifact(root).manifest["files"] if (root / MANIFEST).is_file() else {}
    names = {str(path.relative_to(root)): path for path in sorted(root.rglob("*")) if path.is_file()}
    files = {name: verified[name] if name in verified else describe(path) for name, path in names.items()}
    return Variant(
        name=name,
        folder=str(root),
        base=base_of(name, root, known) if is_adapter(root) else None,
        files=files,
        version=hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest(),
        at=at,
    )


def is_adapter(folder: str | Path) -> bool:
    return (Path(folder).expanduser() / ADAPTER).is_file()


def base_of(name: str, root: Path, known: Iterable[Variant]) -> str:
    try:
        wanted = str(json.loads((root / ADAPTER).read_text(encoding="utf-8"))["base_model_name_or_path"])
    except (ValueError, TypeError, KeyError):
        raise InputError(
            f"models.{name}={root}: its {ADAPTER} names no base_model_name_or_path; write the adapter again"
        ) from None
    whole = [variant for variant in known if variant.base is None]
    for variant in whole:
        if Path(wanted).expanduser().resolve() == Path(variant.folder):
            return variant.name
    raise InputError(
        f"models.{name}={root}: it is an adapter of {wanted}, which is not among the models "
        f"{', '.join(variant.name for variant in whole)}; serve that one too, or the merged model"
    )


def file_problem(variant: Variant) -> str | None:
    """Return a sentence about the first file that changed since registration; None if all are unchanged."""
    root = Path(variant.folder)
    for name, expected in variant.files.items():
        if not (root / name).is_file():
            return f"{root / name} is missing"
        if describe(root / name) != dict(expected):
            return f"{root / name} is not what was registered"
    return None


def summary(variant: Variant) -> dict[str, Any]:
    return {"name": variant.name, "folder": variant.folder, "base": variant.base, "version": variant.version}

"""The ancestry of a model, back to the feedback that it was trained on, for `launch/lineage.py`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.tree import Tree

from rlhf.train.artifact import MANIFEST, describe
from rlhf.types import InputError
from serve.feedback.export import FORGOTTEN, ROWS

SHOWN = 12
"""Number of characters of a hash that are shown."""
REPORT, WIDTH = "lineage.txt", 200


def lineage(folder: Path) -> Tree:
    """Return the tree of a model or data set, from manifests only. Raises InputError if the folder has none."""
    if not (folder / MANIFEST).is_file():
        raise InputError(f"{folder}: it has no {MANIFEST}; give a model's folder, or that of exported feedback")
    return add_artifact(None, folder, set())


def add_artifact(above: Tree | None, folder: Path, seen: set[str]) -> Tree:
    """Add an artifact and its parents. An artifact is expanded once; copies have the same manifest hash."""
    file = folder / MANIFEST
    manifest = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    digest = describe(file)["sha256"] if manifest else ""
    label = f"{manifest.get('kind', 'files')} {folder} {digest[:SHOWN]}"
    if digest in seen:
        label += " (see above)"
    node = Tree(label) if above is None else above.add(label)
    if not manifest or digest in seen:
        return node
    seen.add(digest)
    for line in details(manifest, folder):
        node.add(line)
    for parent in parents(manifest):
        if parent.is_dir():
            add_artifact(node, parent, seen)
        else:
            node.add(f"file {parent} {describe(parent)['sha256'][:SHOWN]}" if parent.is_file() else f"{parent} is gone")
    return node


def parents(manifest: dict[str, Any]) -> Iterator[Path]:
    """Yield folders and files that an artifact was made from; for a data file inside an artifact, that artifact."""
    for parent in manifest.get("parents", ()):
        if parent["path"] and "commit" not in parent:
            yield Path(parent["path"])
    data = (manifest.get("config") or {}).get("data")
    if isinstance(data, dict) and data.get("path") and "data.path" not in hub_origins(manifest):
        path = Path(data["path"])
        yield path.parent if (path.parent / MANIFEST).is_file() else path


def hub_origins(manifest: dict[str, Any]) -> dict[str, dict[str, str]]:
    """Return the models and data sets of the Hub that an artifact was made from: id and commit, by key."""
    return (manifest.get("config") or {}).get("hub") or {}


def details(manifest: dict[str, Any], folder: Path) -> Iterator[str]:
    """Yield lines on the artifact's Hub ids, and for feedback its size and the requests and events of one row."""
    for key, origin in hub_origins(manifest).items():
        yield f"{key} {origin['id']} of the Hub, commit {origin['commit'][:SHOWN]}"
    if manifest.get("kind") != "feedback":
        return
    metrics = manifest["metrics"]
    sources = ", ".join(f"{count} by {source}" for source, count in metrics["sources"].items())
    yield f"{metrics['rows']} rows of {metrics['users']} users: {sources}"
    with (folder / ROWS).open(encoding="utf-8") as rows:
        for first in map(json.loads, islice(rows, 1)):
            yield f"the first: requests {first['request_ids']}, events {first['event_ids']}"
    for taken in manifest.get(FORGOTTEN, ()):
        day = datetime.fromtimestamp(taken["at"], UTC).date()
        yield f"{taken['rows']} rows removed on {day}, as their users withdrew; learnt before: {taken['models']}"


def write(folder: Path, *, model: str) -> None:
    """Print the lineage and write it to a file, as a stage of a pipeline."""
    tree = lineage(Path(model).resolve())
    Console(width=WIDTH).print(tree, markup=False, highlight=False)
    with (folder / REPORT).open("w", encoding="utf-8") as file:
        Console(file=file, width=WIDTH).print(tree, markup=False, highlight=False)


def run(words: list[str]) -> None:
    """Print the ancestry of the folder in `words`. Raises InputError if it has no manifest."""
    if len(words) != 1:
        raise InputError("name one folder: python launch/lineage.py outputs/loop/round_2/files/model")
    Console(width=WIDTH).print(lineage(Path(words[0])), markup=False, highlight=False)

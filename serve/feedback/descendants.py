"""Artifacts made from a folder, directly or indirectly, according to manifests."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlhf.train.artifact import MANIFEST


@dataclass(frozen=True, slots=True)
class ArtifactNode:
    """An artifact in a folder, and the paths that its manifest mentions."""

    folder: Path
    kind: str
    """Kind of the artifact: `model`, `checkpoint` and so on."""
    mentions: tuple[str, ...]
    """All strings in its configuration and its parents; some are paths."""


def artifacts_in(roots: Iterable[Path]) -> list[ArtifactNode]:
    """Find all artifacts in these folders and their subfolders, without duplicates."""
    files = {file.resolve() for root in roots for file in root.rglob(MANIFEST)}
    return [made for file in sorted(files) if (made := read(file))]


def read(file: Path) -> ArtifactNode | None:
    """Read a manifest; None if the file belongs to another program."""
    try:
        manifest = json.loads(file.read_text(encoding="utf-8"))
        mentions = tuple(texts([manifest.get("config"), manifest.get("parents")]))
        return ArtifactNode(file.parent, str(manifest["kind"]), mentions)
    except (OSError, ValueError, KeyError, AttributeError):
        return None


def descendants(folder: Path, artifacts: Iterable[ArtifactNode]) -> list[ArtifactNode]:
    """Return the artifacts whose data, parents or other models lead back to the folder, in order of discovery."""
    left = [made for made in artifacts if made.folder != folder]
    found: list[ArtifactNode] = []
    ancestors = [folder]
    while ancestors:
        ancestor = ancestors.pop(0)
        made = [each for each in left if any(is_inside(text, ancestor) for text in each.mentions)]
        left = [each for each in left if each not in made]
        found += made
        ancestors += [each.folder for each in made]
    return found


def texts(value: Any) -> Iterator[str]:
    match value:
        case str():
            yield value
        case Mapping():
            for each in value.values():
                yield from texts(each)
        case list():
            for each in value:
                yield from texts(each)


def is_inside(text: str, folder: Path) -> bool:
    """Return whether a text is the path of the folder, or of something in it.

    The working directory of a relative path is unknown, so it matches every folder of that name: too many artifacts
    are better than too few.
    """
    path = Path(text)
    if path.is_absolute():
        return folder in (path, *path.parents)
    inside = [each for each in (path, *path.parents) if each.parts]
    return len(path.parts) > 1 and any(folder.parts[-len(each.parts) :] == each.parts for each in inside)

"""Ids of the Hub in a configuration: the folders that they name, and the commits, fixed at a run's first start."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from rlhf.config import as_read
from rlhf.hub import HubId, Snapshot, download, parse
from rlhf.offline_config import RunConfig
from rlhf.paths import repo_type_of
from rlhf.stages.inputs import files_of
from rlhf.stages.report import CONSOLE
from rlhf.train.run_folder import CONFIG

T = TypeVar("T", bound=RunConfig)


def with_snapshots(config: T, made_later: Collection[str] = ()) -> T:
    """The configuration with folders in place of ids of the Hub, whose commits are in `hub`.

    A run that continues keeps the commits that it began with. Values of `made_later` are paths, there or not. Raises
    InputError and RunError where an id names nothing that can be had.
    """
    sources = [source for source in sources_of(config) if source.key not in made_later]
    before = first_commits(Path(config.output)) if sources else {}
    found: dict[tuple[str, str], tuple[Path, str]] = {}
    for source in sources:
        place = source.repo_type, source.text
        if place not in found:
            path, commit = found[place] = download(source, before.get(source.text))
            CONSOLE.print(f"{source}: commit {commit}, in {path}", soft_wrap=True, markup=False)
        path, commit = found[place]
        config = replaced(config, source.key, str(path))
        config = replace(config, hub={**config.hub, source.key: Snapshot(id=source.text, commit=commit)})
    return config


def sources_of(config: RunConfig) -> list[HubId]:
    typed = [(key, text, repo_type_of(key)) for key, text in files_of(as_read(config)).items()]
    parsed = [parse(key, text, repo_type) for key, text, repo_type in typed if repo_type is not None]
    return [source for source in parsed if source is not None]


def first_commits(output: Path) -> dict[str, str]:
    """Commits by id in the configuration of a run that has begun; none where none has, or the file is torn."""
    try:
        recorded = json.loads((output / CONFIG).read_text(encoding="utf-8"))["hub"].values()
        return {each["id"]: each["commit"] for each in recorded}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}  # opening the run folder says what is wrong with it


def replaced(value: Any, key: str, new: str) -> Any:
    """A configuration, or a part of it, with another value of a key such as `data.path` or `reward.ensemble.0`."""
    name, _, rest = key.partition(".")
    if isinstance(value, list):
        number = int(name)
        return [*value[:number], replaced(value[number], rest, new) if rest else new, *value[number + 1 :]]
    inner = value[name] if isinstance(value, dict) else getattr(value, name)
    changed = replaced(inner, rest, new) if rest else new
    return {**value, name: changed} if isinstance(value, dict) else dataclasses.replace(value, **{name: changed})

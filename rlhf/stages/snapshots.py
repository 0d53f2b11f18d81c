"""Ids of the Hub in a configuration, resolved to folders of commits that are fixed at a run's first start."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from rlhf.config import as_read
from rlhf.hub import HubId, Snapshot, download, is_folder_of, parse
from rlhf.offline_config import RunConfig
from rlhf.paths import repo_type_of
from rlhf.stages.console import CONSOLE
from rlhf.stages.inputs import files_of
from rlhf.train.run_folder import CONFIG, replace_key
from rlhf.types import InputError

T = TypeVar("T", bound=RunConfig)


def with_snapshots(config: T, made_later: Collection[str] = ()) -> T:
    """Return the configuration with folders in place of ids of the Hub, and their commits in `hub`.

    A continued run keeps the commits of its first start. Values of `made_later` are paths, even if they do not exist
    yet. Raises InputError or RunError if an id cannot be resolved, or if a value of a continued run was a path at first
    and is an id now, or the reverse.
    """
    sources = [source for source in sources_of(config) if source.key not in made_later]
    first_values, first_origins = first_start(Path(config.output))
    for key, text in files_of(as_read(config)).items():
        if first_values.get(key) == text:
            check_kind(config.output, f"{key}={text}", key in first_origins, key in {source.key for source in sources})
    commits = {(repo_type_of(key), origin.id): origin.commit for key, origin in first_origins.items()}
    found: dict[tuple[str, str], tuple[Path, str]] = {}
    for source in sources:
        place = source.repo_type, source.text
        if place not in found:
            path, commit = found[place] = download(source, commits.get(place))
            CONSOLE.print(f"{source}: commit {commit}, in {path}", soft_wrap=True, markup=False)
        path, commit = found[place]
        config = replace_key(config, source.key, str(path))
        config = replace(config, hub={**config.hub, source.key: Snapshot(id=source.text, commit=commit)})
    return config


def sources_of(config: RunConfig) -> list[HubId]:
    """Return the ids in a configuration. Raises InputError if `hub` has entries that `with_snapshots` did not set."""
    files = files_of(as_read(config))
    for key, origin in config.hub.items():
        repo_type = repo_type_of(key)
        if key not in files or repo_type is None or not is_folder_of(origin, repo_type, files[key]):
            raise InputError(
                f"hub: {key} is {origin.id} at {origin.commit}: hub is set when a run starts; leave it out, and "
                f"set the commit in the id, as in {key}=owner/name@COMMIT"
            )
    typed = [(key, text, repo_type_of(key)) for key, text in files.items()]
    parsed = [parse(key, text, repo_type) for key, text, repo_type in typed if repo_type is not None]
    return [source for source in parsed if source is not None]


def first_start(output: Path) -> tuple[Mapping[str, str], Mapping[str, Snapshot]]:
    """Return the paths and ids of a run's first start and the ids' origins, by key; empty if no run has started, or its
    file is damaged."""
    try:
        recorded = json.loads((output / CONFIG).read_text(encoding="utf-8"))
        origins = recorded.get("hub", {}).items()
        return files_of(recorded), {key: Snapshot(id=each["id"], commit=each["commit"]) for key, each in origins}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}, {}  # opening the run folder raises the error


def check_kind(output: str, given: str, was_id: bool, is_id: bool) -> None:
    """Raise InputError if a value of a continued run was an id of the Hub and is a path now, or the reverse."""
    if was_id and not is_id:
        raise InputError(
            f"{given}: the run in output={output} began with the Hub's repository of that id, and here a path of that "
            "name exists, which takes precedence; move it, use another working directory, or set another output"
        )
    if is_id and not was_id:
        raise InputError(
            f"{given}: the run in output={output} began with a path of that name, which does not exist in "
            f"{Path.cwd()}; continue it where the path exists, or set another output to use the Hub's repository"
        )

"""The folder of a pipeline and the record of its stages. Knows no Ray."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

from rlhf.pipelines.config import REPLACED
from rlhf.train.disk import root_of
from rlhf.train.run_folder import CONFIG, hold_folder, replace_file
from rlhf.types import InputError

PIPELINE = "pipeline.json"


class State(StrEnum):
    """State of a stage."""

    waiting = "waiting"
    running = "running"
    stopped = "stopped"
    """The stage was interrupted or failed; the same command continues it."""
    made = "made"
    kept = "kept"
    """An earlier call has made the artifact from the same configuration and inputs."""
    blocked = "blocked"
    """An evaluation that it needs did not pass its gate."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """Record of a stage."""

    kind: str
    parents: tuple[str, ...]
    """Names of the stages it needs."""
    state: State = State.waiting
    fingerprint: str | None = None
    """sha256 of its kind, its configuration and its inputs' contents."""
    seconds: float = 0.0
    """Wall time of all calls that worked on it, except killed ones, whose time is unknown."""
    tokens: float | None = None
    """Tokens of its training, prompts included; None for a stage that does not train."""
    metrics: Mapping[str, Any] = field(default_factory=dict)
    """Metrics of the artifact's manifest."""
    verdict: str | None = None
    """Verdict of an evaluation's gate; None without one."""


class Pipeline:
    """The folder of a pipeline and the record of its stages; `pipeline.json` is always up to date."""

    def __init__(self, root: Path, stages: Mapping[str, Stage]) -> None:
        self.root, self.stages = root, dict(stages)

    def record(self, name: str, **changes: Any) -> None:
        self.stages[name] = replace(self.stages[name], **changes)
        self.write()

    def write(self) -> None:
        stages = {name: asdict(stage) for name, stage in self.stages.items()}
        replace_file(self.root / PIPELINE, json.dumps({"stages": stages}, indent=1))

    def set_aside(self, name: str) -> Path:
        """Move the folder of a stage aside, so that other results can take its place; return its new path."""
        replaced = self.root / REPLACED
        replaced.mkdir(exist_ok=True)
        aside = replaced / f"{name}-{sum(1 for _ in replaced.glob(f'{name}-*'))}"
        (self.root / name).rename(aside)
        return aside


@contextmanager
def open_pipeline(path: str, stages: Mapping[str, Stage]) -> Iterator[Pipeline]:
    """Open and lock the pipeline's folder until the block ends; seconds of earlier calls are kept.

    Raises InputError if another process holds the lock, or the folder is that of a single run.
    """
    root = root_of_pipeline(path)
    with hold_folder(root, path):
        before = read_seconds(root / PIPELINE)
        known = {name: replace(stage, **before.get(name, {})) for name, stage in stages.items()}
        pipeline = Pipeline(root, known)
        pipeline.write()
        yield pipeline


def root_of_pipeline(path: str) -> Path:
    """Return the folder that `output` names. Raises InputError if it is that of a single run."""
    root = root_of(path)
    if (root / CONFIG).exists():
        raise InputError(f"output={path}: it holds a single run; name another folder for the pipeline")
    return root


def read_seconds(file: Path) -> dict[str, dict[str, Any]]:
    """Read what earlier calls recorded of each stage outside the stage's folder."""
    if not file.is_file():
        return {}
    try:
        stages: Mapping[str, Mapping[str, Any]] = json.loads(file.read_text(encoding="utf-8"))["stages"]
        return {name: {key: stage[key] for key in ("fingerprint", "seconds")} for name, stage in stages.items()}
    except (ValueError, TypeError, KeyError, AttributeError):
        raise InputError(f"{file}: it is not the record of a pipeline; name a new or empty folder") from None


def seconds_before(stage: Stage, fingerprint: str) -> float:
    """Return the seconds spent on this stage so far."""
    return stage.seconds if stage.fingerprint == fingerprint else 0.0

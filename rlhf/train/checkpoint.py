"""Checkpoints from which a run continues; each is also a model that `from_pretrained` loads."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, Protocol

from rlhf.algorithms.base import Algorithm
from rlhf.models.heads import Head
from rlhf.runtimes.protocols import Backend
from rlhf.train.artifact import MANIFEST, FileRecords, committing, off_loop, open_artifact, staging_of
from rlhf.train.best import Direction
from rlhf.train.report import StepReport
from rlhf.train.run_folder import RUN_STEPS, RunFolder
from rlhf.train.stream import RolloutStream
from rlhf.train.verify import SavedModel, as_manifest
from rlhf.types import InputError

TRAINER, STATE, POLICY = "trainer", "state.json", "policy"


class SavedRole(Protocol):
    async def save(self, folder: Path) -> FileRecords:
        """Write the state from which the role continues; each rank records its files."""

    async def save_pretrained(self, folder: Path, probe: Sequence[int] | None) -> SavedModel:
        """Write the model into an empty folder; with `probe`, the token ids of a row, load the folder again and compare
        it with the model."""


@dataclass(kw_only=True, slots=True)
class CheckpointConfig:
    """Interval and number of checkpoints. The same command continues from the newest checkpoint."""

    every: int | None = None
    """Training steps between checkpoints; None saves only the final model. A stopped run always saves a checkpoint."""
    keep: int = 2
    """Number of checkpoints to keep, the newest ones. At least 1."""
    verify: bool = True
    """Load every checkpoint's model again and compare it with the model in training, as is always done with the final
    model. Rank 0 reads the folder into host memory, one copy in the training precision; the others wait."""

    def __post_init__(self) -> None:
        if self.every is not None and self.every < 1:
            raise InputError(f"checkpoint.every={self.every}: give at least 1, or null to save only the final model")
        if self.keep < 1:
            raise InputError(f"checkpoint.keep={self.keep}: give at least 1")


class Final(StrEnum):
    """The model that a run ends with."""

    last = "last"
    best = "best"


@dataclass(kw_only=True, slots=True)
class OnlineCheckpointConfig(CheckpointConfig):
    """Checkpoints of online runs, which may keep the best model beside the newest."""

    keep_best: str | None = None
    """Metric of the validation, such as `validation/reward`, whose best model is kept in the folder `best`, whatever
    `keep` is. It loads with `from_pretrained`; a run does not continue from it. None: it is not kept."""
    best_is: Direction = Direction.highest
    """`highest` or `lowest`: which values of `keep_best` are better."""
    final: Final = Final.last
    """`last`: the run ends with the model of its last step. `best`: with the best one by `keep_best`; a critic is of
    the last step in either case."""

    def __post_init__(self) -> None:
        super(OnlineCheckpointConfig, self).__post_init__()
        if self.final is Final.best and self.keep_best is None:
            raise InputError(
                "checkpoint.final=best: no metric says which model is the best; set checkpoint.keep_best, as in "
                "checkpoint.keep_best=validation/reward, or checkpoint.final=last"
            )


@dataclass(slots=True, kw_only=True)
class Checkpointer:
    """Commits checkpoints and the final model."""

    config: CheckpointConfig
    folder: RunFolder
    learners: Mapping[str, SavedRole]
    """Models that are trained, by role; `policy` is the model of the run."""
    algorithm: Algorithm
    stream: RolloutStream
    write_tokenizer: Callable[[Path], None]
    manifest: Mapping[str, Any]
    """Kind, Auto class, configuration and parents of the saved model."""
    probe: Sequence[int]
    """Token ids of the row that verifies saved models."""
    metrics: dict[str, float] = field(default_factory=dict)
    unsaved: dict[str, Any] | None = field(default=None, init=False)
    """The state after the last step, if no checkpoint holds it. Copied at the step's end, since sampling for the next
    step changes it."""

    async def on_step(self, report: StepReport) -> bool:
        self.metrics = report.stats.values()
        done = report.step + 1
        self.unsaved = {
            "next_step": done,
            "stream": self.stream.state(),
            "algorithm": dict(self.algorithm.state()),
        }
        if self.config.every and done % self.config.every == 0:
            await self.save_checkpoint(self.unsaved)
        return False

    async def save_unsaved(self) -> None:
        """Save a checkpoint of the last step, regardless of `every`, unless it exists already."""
        if self.unsaved is not None:
            await self.save_checkpoint(self.unsaved)

    async def save_checkpoint(self, state: Mapping[str, Any]) -> None:
        """Save the model, and under `trainer/` the state that the next step needs."""
        num_steps = state["next_step"]
        target = self.folder.checkpoint(num_steps)
        manifest = {**self.manifest, "kind": "checkpoint", "step": num_steps, "metrics": self.metrics}
        records: FileRecords = {}
        async with off_loop(committing(target, manifest, records)) as staging:
            model = await self.write_model(self.learners[POLICY], staging, self.probe if self.config.verify else None)
            manifest |= as_manifest(model.verification)
            records |= model.records
            for name, role in self.learners.items():
                records |= await role.save(staging / TRAINER / name)
            (staging / TRAINER / STATE).write_text(json.dumps(state), encoding="utf-8")
        self.unsaved = None
        await asyncio.to_thread(self.folder.keep_newest, self.config.keep)
        await asyncio.to_thread(self.folder.drop_old_bests)

    async def save_best(self, target: Path, num_steps: int, manifest: Mapping[str, Any]) -> None:
        """Save the policy as the best model so far; its `metrics` join those of the last step."""
        metrics = {**self.metrics, **manifest["metrics"]}
        await self.commit_model(
            self.learners[POLICY],
            target,
            {**self.manifest, **manifest, "kind": "model", "step": num_steps, "metrics": metrics},
        )

    async def save_final(self, num_steps: int, metrics: Mapping[str, float], best: Path | None = None) -> Path:
        """Save the final models; the policy's is that of the last step, or a copy of the `best` model's folder."""
        manifest = {**self.manifest, "kind": "model", "step": num_steps, "metrics": {**self.metrics, **metrics}}
        for name, role in self.learners.items():
            if name != POLICY:
                beside = {**manifest, "kind": name, "auto_class": Head.value.value}
                await self.commit_model(role, self.folder.root / name, beside)
        if best is None:
            await self.commit_model(self.learners[POLICY], self.folder.model, manifest)
        else:
            await asyncio.to_thread(commit_copy, best, self.folder.model, num_steps, metrics)
        return self.folder.model

    async def commit_model(self, role: SavedRole, target: Path, manifest: dict[str, Any]) -> None:
        records: FileRecords = {}
        async with off_loop(committing(target, manifest, records)) as staging:
            model = await self.write_model(role, staging, self.probe)
            manifest |= as_manifest(model.verification)
            records |= model.records

    async def write_model(self, role: SavedRole, folder: Path, probe: Sequence[int] | None) -> SavedModel:
        model = await role.save_pretrained(folder, probe)
        self.write_tokenizer(folder)
        return model


def commit_copy(source: Path, target: Path, num_steps: int, metrics: Mapping[str, float]) -> None:
    """Commit a copy of a model, with the steps of its run and more metrics in the manifest. Raises InputError if the
    model is damaged."""
    made = open_artifact(source).manifest
    manifest = {**made, RUN_STEPS: num_steps, "metrics": {**made["metrics"], **metrics}}
    with committing(target, manifest) as staging:
        shutil.copytree(source, staging, dirs_exist_ok=True, ignore=shutil.ignore_patterns(MANIFEST))


@contextmanager
def committing_together(
    backend: Backend, target: Path, manifest: Mapping[str, Any], records: FileRecords
) -> Iterator[Path]:
    """Yield a staging folder that all ranks of `backend` write into; it becomes `target` once all have written.

    Every rank calls this. The entries that the ranks add to their `records`, and the first rank to `manifest`, become
    part of the manifest.
    """
    with committing(target, manifest, records) if backend.rank == 0 else nullcontext():
        backend.gather(None)
        yield staging_of(target)
        for each in backend.gather(records):
            records |= each
    backend.gather(None)


def read_state(checkpoint: Path) -> dict[str, Any]:
    return json.loads((checkpoint / TRAINER / STATE).read_text(encoding="utf-8"))

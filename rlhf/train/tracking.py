"""Logs of a run: metrics as JSONL and TensorBoard events, rollouts to read, a progress bar, a plot."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from rlhf.paths import is_uri
from rlhf.train.report import StepReport
from rlhf.types import Episode, InputError, Reference, Score

METRICS, ROLLOUTS, PLOT = "metrics.jsonl", "rollouts.jsonl", "progress.png"
SAMPLES = "samples.jsonl"
"""File of held-out prompts with the completions of the model in training."""
VALIDATION = "validation/"
"""Prefix of metrics on held-out prompts."""


@dataclass(kw_only=True, slots=True)
class LogConfig:
    """Logs beside the metrics."""

    groups_per_step: int = 1
    """Groups per step whose rollouts are written to `rollouts.jsonl` as text; their tokens are sent to the driver."""
    tensorboard: bool = True
    """Write TensorBoard events to the run folder."""
    wandb_project: str | None = None
    """Weights & Biases project for the metrics; None: none. They stay in the run folder, for `wandb sync`, unless
    WANDB_API_KEY or WANDB_MODE is set."""
    mlflow: str | None = None
    """MLflow for the metrics and the configuration: a tracking server, as `http://HOST:5000`, another tracking URI, or
    a folder, which gets a database; None: none. Needs `pip install mlflow-skinny`."""
    mlflow_experiment: str = "rlhf"
    """MLflow experiment that the run belongs to."""

    def __post_init__(self) -> None:
        if self.mlflow is not None and find_spec("mlflow") is None:
            raise InputError(f"log.mlflow={self.mlflow}: its package is not installed; pip install mlflow-skinny")
        # Ranks of offline training write the metrics, and have another working directory.
        if self.mlflow is not None and not is_uri(self.mlflow):
            self.mlflow = str(Path(self.mlflow).resolve())


class Sink(Protocol):
    """Destination of metrics other than the run's own file."""

    def write(self, figures: Mapping[str, float]) -> None:
        """Write the metrics of one step, including `step`."""


class MetricsLog:
    """One line per step, flushed immediately; metrics that are not finite are null."""

    def __init__(self, folder: Path, next_step: int) -> None:
        self.path = folder / METRICS
        self.history = truncate_to(self.path, next_step)
        self.sinks: list[Sink] = []

    async def on_step(self, report: StepReport) -> bool:
        self.write(report.figures)
        return False

    def write(self, figures: Mapping[str, float]) -> None:
        row = {key: value if math.isfinite(value) else None for key, value in figures.items()}
        self.history.append(row)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        for sink in self.sinks:
            sink.write(figures)


def write_samples(file: Path, step: int, samples: Sequence[Mapping[str, str]]) -> None:
    """Append a line for each sample."""
    # A policy may write what UTF-8 does not hold.
    with file.open("a", encoding="utf-8", errors="replace") as lines:
        for sample in samples:
            lines.write(json.dumps({"step": step, **sample}, ensure_ascii=False) + "\n")


class TensorBoard:
    """Events in the run folder; those of steps that a resumed run repeats are purged."""

    def __init__(self, folder: Path, next_step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.events = SummaryWriter(str(folder / "tensorboard"), purge_step=next_step)

    def write(self, figures: Mapping[str, float]) -> None:
        for name, value in figures.items():
            self.events.add_scalar(name, value, figures["step"])
        self.events.flush()


def truncate_to(path: Path, next_step: int) -> list[dict[str, Any]]:
    """Drop the lines of steps that a resumed run repeats, and return the others, parsed."""
    if not path.is_file():
        return []
    rows = read_rows(path)
    kept = [row for row in rows if row["step"] < next_step]
    draft = path.with_name(f".{path.name}")
    draft.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in kept), encoding="utf-8")
    draft.replace(path)
    return kept


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Return the complete lines of a JSONL file that a run writes, or a killed run wrote; empty if it does not
    exist."""
    if not path.is_file():
        return []
    # Only a line feed ends a line (a rollout may contain other separators); the part after the last one is incomplete.
    *lines, _ = path.read_bytes().split(b"\n")
    return [json.loads(line) for line in lines]


@dataclass(slots=True)
class Tail:
    """Reader of the lines that another process appends to a JSONL file. A restart of that process may rewrite the file
    with a part of the old lines."""

    path: Path
    inode: int = 0
    position: int = 0
    old_lines: set[bytes] = field(default_factory=set)

    def read(self) -> list[dict[str, Any]]:
        """Return the complete lines that no earlier call returned."""
        if not self.path.is_file():
            return []
        with self.path.open("rb") as file:
            inode = os.fstat(file.fileno()).st_ino
            if inode != self.inode:
                self.inode, self.position = inode, 0
            file.seek(self.position)
            *lines, torn = file.read().split(b"\n")
            self.position = file.tell() - len(torn)
        new = [line for line in lines if line not in self.old_lines]
        self.old_lines.update(new)
        return [json.loads(line) for line in new]


class RolloutLog:
    """Some episodes of each step as text, a line for each row, with the breakdown of their reward."""

    def __init__(
        self,
        folder: Path,
        groups_per_step: int,
        fetch: Callable[[Sequence[Reference]], list[Any]],
        decode: Callable[[list[int]], str],
        next_step: int,
    ) -> None:
        self.path, self.groups_per_step, self.fetch, self.decode = folder / ROLLOUTS, groups_per_step, fetch, decode
        truncate_to(self.path, next_step)

    async def on_step(self, report: StepReport) -> bool:
        chosen = report.groups[: self.groups_per_step]
        # An environment's messages may hold what JSON and UTF-8 do not: bytes, numbers of numpy's, broken text.
        with self.path.open("a", encoding="utf-8", errors="replace") as file:
            for group, rollouts in zip(chosen, self.fetch([group.rollouts for group in chosen]), strict=True):
                for info, episode in zip(group.infos, group.episodes(rollouts), strict=True):
                    for line in readable(episode, self.decode):
                        line = {"step": report.step, "episode": info.id, **line}
                        file.write(json.dumps(line, ensure_ascii=False, default=str) + "\n")
        return False


def readable(episode: Episode, decode: Callable[[list[int]], str]) -> Iterator[dict[str, Any]]:
    """Yield a line for each row of an episode, with its index and what the policy read at its start; all have the
    episode's reward."""
    score = episode.score
    for index, row in enumerate(episode.rows):
        versions = row.versions[row.loss_mask]
        # Rows of an environment that builds them itself may have no turns.
        num_read = row.turns[0].start if row.turns else int(np.append(row.loss_mask, True).argmax())
        yield {
            "row": index,
            "prompt_id": row.prompt_id,
            "prompt": decode(row.token_ids[:num_read].tolist()),
            "text": row.text,
            "turns": [message for turn in row.turns for message in turn.messages],
            **(
                {"reward": score.value, "parts": dict(score.parts)}
                if isinstance(score, Score)
                else {"failure": f"{score.kind}: {score.message}" if score else None}
            ),
            "stop": row.stop,
            "num_tokens": int(row.loss_mask.sum()),
            "versions": [int(versions.min()), int(versions.max())] if len(versions) else None,
        }


BAR_FIGURES = {"reward": "reward", "train/kl": "kl", "train/entropy": "entropy", "completion_tokens": "length",
               "failures": "failed", "train/loss": "loss"}  # fmt: skip


@dataclass(slots=True)
class ProgressBar:
    """A bar on a terminal; otherwise a line every tenth of the run."""

    num_steps: int
    console: Console
    progress: Progress = field(init=False)

    def __post_init__(self) -> None:
        columns = (BarColumn(20), MofNCompleteColumn(), TextColumn("{task.description}"), TimeRemainingColumn())
        self.progress = Progress(*columns, console=self.console, disable=not self.console.is_terminal)
        self.progress.add_task("", total=self.num_steps)

    async def on_step(self, report: StepReport) -> bool:
        self.show(report.step, report.figures)
        return False

    def show(self, step: int, metrics: Mapping[str, float]) -> None:
        figures = [f"{short} {metrics[name]:.3g}" for name, short in BAR_FIGURES.items() if name in metrics]
        if "seconds/step" in metrics:
            figures.append(f"{metrics['seconds/step']:.2f} s")
        self.progress.update(self.progress.task_ids[0], completed=step + 1, description="  ".join(figures))
        if not self.console.is_terminal and (step + 1) % max(self.num_steps // 10, 1) == 0:
            self.console.print(f"step {step + 1}/{self.num_steps}  " + "  ".join(figures), soft_wrap=True)

    def __enter__(self) -> ProgressBar:
        self.progress.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.progress.stop()


@dataclass(frozen=True, slots=True)
class StopAtReward:
    """End the training once the mean reward of the last steps reaches a target. Follows the log in callbacks."""

    target: float
    window: int
    history: Sequence[Mapping[str, Any]]
    """Rows of the metrics log, including those of the run that is continued; those of validations have no reward."""

    async def on_step(self, report: StepReport) -> bool:
        rewards = [row["reward"] for row in self.history if row.get("reward") is not None]
        recent = rewards[-self.window :]
        return len(recent) == self.window and sum(recent) / self.window >= self.target


def plot(history: Sequence[Mapping[str, Any]], panels: Mapping[str, str], path: Path) -> None:
    """Plot one panel per recorded metric, over training steps. Metrics of validations, if any, are a second curve in
    the panel of the same metric."""
    validations = [unprefixed(row, VALIDATION) for row in history if any(name.startswith(VALIDATION) for name in row)]
    plot_runs({"training": history, "validation": validations} if validations else {"": history}, panels, path)


def unprefixed(row: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """Return the metrics that begin with a prefix, without it, and the step."""
    found = {name.removeprefix(prefix): value for name, value in row.items() if name.startswith(prefix)}
    return {"step": row["step"], **found}


def plot_runs(runs: Mapping[str, Sequence[Mapping[str, Any]]], panels: Mapping[str, str], path: Path) -> None:
    """Plot one panel per metric that any run recorded, with one curve per run, and a band where the metric has an
    interval; a legend below names several runs."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    rows = [row for history in runs.values() for row in history]
    present = {title: name for title, name in panels.items() if any(row.get(name) is not None for row in rows)}
    # The legend needs a line per name.
    height = 3 + (0.25 * len(runs) if len(runs) > 1 else 0)
    size = (4 * max(len(present), 1), height)
    figure, axes = pyplot.subplots(1, max(len(present), 1), figsize=size, squeeze=False, layout="constrained")
    for axis, (title, name) in zip(axes[0], present.items(), strict=False):
        for number, (run, history) in enumerate(runs.items()):
            points = [(row["step"], row[name]) for row in history if row.get(name) is not None]
            # Ten colours, then the same colours dashed.
            style = ("-", "--", ":", "-.")[number // 10 % 4]
            (line,) = axis.plot(*(zip(*points, strict=True) if points else ([], [])), style, linewidth=1.5, label=run)
            bands = [(row["step"], row[f"{name}_low"], row[f"{name}_high"]) for row in history
                     if row.get(f"{name}_low") is not None]  # fmt: skip
            if bands:
                axis.fill_between(*zip(*bands, strict=True), alpha=0.15, color=line.get_color(), linewidth=0)
        axis.set(title=title, xlabel="training step")
        axis.grid(alpha=0.3)
    if len(runs) > 1:
        figure.legend(*axes[0][0].get_legend_handles_labels(), loc="outside lower center", fontsize="small")
    figure.savefig(path, dpi=120)
    pyplot.close(figure)

"""Cross-validation: one run per fold, as parallel Ray tasks, as many at once as fit in the cluster."""

from __future__ import annotations

import asyncio
import functools
import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import ray
from ray.exceptions import RayTaskError

from rlhf.actors.ray_train import num_ranks_at_once
from rlhf.evaluation.preference import agreement
from rlhf.stages.console import CONSOLE, markdown_table, show_table
from rlhf.stages.offline.rank import BEFORE_TRAINING, STOP, Corpora, OfflineJob, train_on_ranks
from rlhf.stages.offline.reward_report import SCORES
from rlhf.train.artifact import open_artifact, without_nan
from rlhf.train.offline import Corpus
from rlhf.train.rows import ROWS, check_rows, digest_of_corpus
from rlhf.train.run_folder import RunFolder, is_finished, replace_file
from rlhf.train.stop import Stop, until_stopped
from rlhf.train.tracking import METRICS, ProgressBar, Tail, read_rows
from rlhf.types import InputError, RunError, Stopped

POLL_S = 0.5
Split = Sequence[tuple[Sequence[int], Sequence[int]]]
"""Indices of the training units and of the held-out units of each fold."""
FOLD = "fold"
"""Prefix of the metrics on a fold's held-out part."""
COLUMNS = ("pairs", "nll", "calibration_error", "length_slope", "accuracy")


def cross_validate(split: Split, job: OfflineJob, folder: RunFolder) -> dict[str, Any]:
    """Train a model per fold, measure it on the held-out part, and return the summary over folds.

    `folds.md` and `folds.json` hold the table. The models stay in `folds/fold-0/model` and so on, as an ensemble.
    """
    jobs = fold_jobs(split, job, folder)
    CONSOLE.print(f"cross-validation: {len(jobs)} models, each without a part of the pairs", soft_wrap=True)
    tell = functools.partial(CONSOLE.print, soft_wrap=True)
    asyncio.run(until_stopped(functools.partial(train_folds, jobs), tell))
    measured = [open_artifact(RunFolder(each.root).model).manifest["metrics"] for each in jobs]
    rows = [
        (
            each.root.name,
            *(cell(figures[f"{FOLD}/{name}"]) for name in COLUMNS),
            f"{figures[f'{FOLD}/accuracy_low']:.3f} to {figures[f'{FOLD}/accuracy_high']:.3f}",
        )
        for each, figures in zip(jobs, measured, strict=True)
    ]
    accuracies = [figures[f"{FOLD}/accuracy"] for figures in measured]
    summary = {
        "accuracy_mean": float(np.mean(accuracies)),
        "accuracy_std": float(np.std(accuracies, ddof=1)),
        **{
            f"{name}/{key}": value
            for name in job.corpora.held_out
            for key, value in agreement([margins_of(each, name) for each in jobs]).items()
        },
    }
    titles = ("fold", *COLUMNS, "95 % interval")
    replace_file(folder.root / "folds.json", json.dumps(without_nan({"folds": measured, "all": summary}), indent=1))
    replace_file(folder.root / "folds.md", markdown_table(titles, rows))
    show_table("Cross-validation", titles, rows)
    show_table("All folds", ("figure", "value"), [(name, f"{value:.4g}") for name, value in summary.items()])
    return {f"folds/{name}": value for name, value in summary.items()}


def cell(figure: float | None) -> str:
    """Format a metric; empty if the fold's pairs do not determine it, such as length bias of sides of equal length."""
    return "" if figure is None else f"{figure:.4g}"


def fold_jobs(split: Split, job: OfflineJob, folder: RunFolder) -> list[OfflineJob]:
    units, config = job.corpora.train.units, job.config
    parts = [
        Corpora(
            train=Corpus(units=[units[k] for k in kept]),
            held_out={FOLD: Corpus(units=[units[k] for k in left])} | dict(job.corpora.held_out),
        )
        for kept, left in split
    ]
    return [
        replace(
            job,
            config=replace(config, output=f"{config.output}/{FOLD}-{i}"),
            root=folder.root / "folds" / f"{FOLD}-{i}",
            corpora=corpora,
            manifest={**job.manifest, ROWS: {"train": digest_of_corpus(corpora.train)}},
        )
        for i, corpora in enumerate(parts)
    ]


def margins_of(job: OfflineJob, name: str) -> np.ndarray:
    """Read the margins of the fold's model on the set of pairs `name`, which all folds share."""
    lines = [line for line in read_rows(job.root / SCORES) if line["set"] == name]
    return np.array([line["chosen"] - line["rejected"] for line in lines])


async def train_folds(jobs: Sequence[OfflineJob], stop: Stop) -> None:
    """Train every fold that is not trained yet. Raises Stopped if a stop was requested before all were trained."""
    waiting = [job for job in jobs if not is_trained(job)]
    for job in jobs:
        check_rows(RunFolder(job.root), job.manifest[ROWS], {"train": "data.path"})
    for job in waiting:
        job.root.mkdir(parents=True, exist_ok=True)
        (job.root / STOP).unlink(missing_ok=True)
    queue = [replace(job, corpora=ray.put(job.corpora)) for job in waiting]
    tasks: list[ray.ObjectRef] = []
    at_once = max(num_ranks_at_once() // jobs[0].config.placement.policy, 1)
    steps = [Tail(job.root / METRICS) for job in waiting]
    total = sum(job.config.train.steps_over(len(job.corpora.train)) for job in waiting)
    num_done = 0
    with ProgressBar(total, CONSOLE) as bar:
        while tasks or queue:
            if stop.requested.is_set():
                queue.clear()
                for job in waiting:
                    (job.root / STOP).touch()
            while queue and len(tasks) < at_once:
                tasks.append(train_fold.remote(queue.pop(0)))
            if not tasks:
                break
            ready, tasks = await asyncio.to_thread(ray.wait, tasks, num_returns=len(tasks), timeout=POLL_S)
            for figures in [figures for tail in steps for figures in tail.read() if figures["step"] > BEFORE_TRAINING]:
                bar.show(num_done, figures)
                num_done += 1
            try:
                ray.get(ready)
            except RayTaskError as error:
                raise error.cause if isinstance(error.cause, InputError | RunError) else error from None
    if not all(map(is_trained, jobs)):
        raise Stopped(stop.signal, "the folds are saved, the same command continues them")


def is_trained(job: OfflineJob) -> bool:
    """Return whether a fold's model exists. `job` holds its corpora, not a Ray reference to them."""
    return is_finished(RunFolder(job.root), job.config.train.steps_over(len(job.corpora.train)))


@ray.remote(num_cpus=0, max_retries=0)
def train_fold(job: OfflineJob) -> None:
    """Train one fold in a Ray task that waits for its ranks, which hold the accelerators."""
    train_on_ranks(job)

"""Cross-validation: a run per fold, as Ray tasks side by side, as many at once as the cluster has room for."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace

import ray
from ray.exceptions import RayTaskError
from rich.console import Console

from rlhf.stages.offline_rank import STOP, OfflineJob, train_on_ranks
from rlhf.train.run_folder import RunFolder, is_finished
from rlhf.train.stop import Stop
from rlhf.train.tracking import METRICS, ProgressBar, Tail
from rlhf.types import InputError, RunError, Stopped

POLL_S = 0.5


async def train_folds(jobs: Sequence[OfflineJob], console: Console, stop: Stop) -> None:
    """Train every fold that is not trained yet. Raises Stopped where a stop was asked for before all were."""
    waiting = [job for job in jobs if not is_finished(RunFolder(job.root))]
    for job in waiting:
        job.root.mkdir(parents=True, exist_ok=True)
        (job.root / STOP).unlink(missing_ok=True)
    told = [replace(job, corpora=ray.put(job.corpora)) for job in waiting]
    tasks = [train_fold.remote(job) for job in told]
    steps = [Tail(job.root / METRICS) for job in waiting]
    total = sum(job.config.train.steps_over(len(job.corpora.train)) for job in waiting)
    num_done = 0
    with ProgressBar(total, console) as bar:
        while tasks:
            if stop.asked.is_set():
                for job in waiting:
                    (job.root / STOP).touch()
            ready, tasks = await asyncio.to_thread(ray.wait, tasks, num_returns=len(tasks), timeout=POLL_S)
            for figures in [figures for tail in steps for figures in tail.read() if figures["step"] >= 0]:
                bar.show(num_done, figures)
                num_done += 1
            try:
                ray.get(ready)
            except RayTaskError as error:
                raise error.cause if isinstance(error.cause, InputError | RunError) else error from None
    if not all(is_finished(RunFolder(job.root)) for job in jobs):
        raise Stopped(stop.signal, "the folds are saved, the same command continues them")


@ray.remote(num_cpus=0, max_retries=0)
def train_fold(job: OfflineJob) -> None:
    """A task that waits for its ranks, which hold the accelerators."""
    train_on_ranks(job)

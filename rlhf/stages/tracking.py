"""Destinations of a run's metrics."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from rlhf.actors.metrics import RayMetrics
from rlhf.config import RunConfig, as_plain
from rlhf.stages.console import CONSOLE
from rlhf.train.mlflow_log import mlflow_log
from rlhf.train.run_folder import RunFolder
from rlhf.train.tracking import MetricsLog, TensorBoard
from rlhf.train.wandb_log import wandb_log


@contextmanager
def metrics_log(config: RunConfig, folder: RunFolder, next_step: int) -> Iterator[MetricsLog]:
    """Open the run's metrics log and its sinks, which are closed at the end, even if the run fails."""
    log = MetricsLog(folder.root, next_step)
    log.sinks.append(RayMetrics(run=config.output))
    if config.log.tensorboard:
        log.sinks.append(TensorBoard(folder.root, next_step))
    with ExitStack() as stack:
        if config.log.wandb_project:
            opened = wandb_log(folder.root, config.log.wandb_project, config.output, as_plain(config), log.history[:])
            log.sinks.append(stack.enter_context(opened))
        if config.log.mlflow:
            run = mlflow_log(folder.root, config.log, config.output, as_plain(config), log.history[:], tell)
            log.sinks.append(stack.enter_context(run))
        yield log


def tell(sentence: str) -> None:
    CONSOLE.print(sentence, soft_wrap=True, markup=False)

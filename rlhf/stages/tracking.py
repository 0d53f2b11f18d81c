"""Everywhere the figures of a run go."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rlhf.actors.metrics import RayMetrics
from rlhf.config import RunConfig
from rlhf.train.run_folder import RunFolder
from rlhf.train.tracking import MetricsLog, TensorBoard


@contextmanager
def metrics_log(config: RunConfig, folder: RunFolder, next_step: int) -> Iterator[MetricsLog]:
    """The run's metrics log with its sinks."""
    log = MetricsLog(folder.root, next_step)
    log.sinks.append(RayMetrics(run=config.output))
    if config.log.tensorboard:
        log.sinks.append(TensorBoard(folder.root, next_step))
    yield log

"""Start of every stage: the values that a run's first start fixes, and the check of the machines."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

from rlhf.actors.node_checks import check_nodes
from rlhf.config import OnlineConfig, as_read
from rlhf.evaluation_config import EvaluationConfig
from rlhf.offline_config import RunConfig
from rlhf.stages.inputs import model_folders
from rlhf.stages.snapshots import with_snapshots
from rlhf.stages.template_date import with_template_date

T = TypeVar("T", bound=RunConfig)


def as_first_started(config: T) -> T:
    """Return the configuration with the values that a run keeps from its first start: template date and Hub commits.

    Raises InputError or RunError if an id of the Hub cannot be resolved.
    """
    return with_snapshots(with_template_date(config))


def check_machines(config: RunConfig, root: Path | None) -> None:
    """Check every node before accelerators are held. Raises RunError with the problems.

    `root` is the run's folder; None if the run writes nothing.
    """
    engine_share = (
        config.sampler.accelerator_memory_fraction if isinstance(config, OnlineConfig | EvaluationConfig) else None
    )
    check_nodes(root, config.preflight, engine_share, model_folders(as_read(config)))

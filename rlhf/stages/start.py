"""The start of every stage: what its first start fixes, and the check of the machines."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

from rlhf.actors.node_checks import check_nodes
from rlhf.config import OnlineConfig, as_read
from rlhf.offline_config import RunConfig
from rlhf.stages.inputs import model_folders
from rlhf.stages.snapshots import with_snapshots
from rlhf.stages.template_date import with_template_date

T = TypeVar("T", bound=RunConfig)


def as_first_started(config: T) -> T:
    """The configuration with what a run keeps from its first start on: the template's date, and the Hub's commits.

    Raises InputError and RunError where an id of the Hub names nothing that can be had.
    """
    return with_snapshots(with_template_date(config))


def check_machines(config: RunConfig, root: Path | None) -> None:
    """See that every node can do its part of the run, before accelerators are held. Raises RunError with what is wrong.

    `root` is the run's folder; None where it writes nothing.
    """
    engine_share = config.sampler.accelerator_memory_fraction if isinstance(config, OnlineConfig) else None
    check_nodes(root, config.preflight, engine_share, model_folders(as_read(config)))

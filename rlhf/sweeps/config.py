"""The configuration of a sweep whose members are Ray jobs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from rlhf.config import add_schema
from rlhf.types import InputError

AT_THE_END = ("steps", "success_before", "success_after", "seconds")
"""Figures of a member that `metrics.jsonl` does not have."""


class Sampler(StrEnum):
    """Choice of the next member of a search: by the results so far (tree-structured Parzen estimator), or at random."""

    tpe = "tpe"
    random = "random"


class Direction(StrEnum):
    maximize = "maximize"
    minimize = "minimize"


class Pruning(StrEnum):
    """Rule that ends members early: worse than the median of the earlier members, or successive halving."""

    median = "median"
    halving = "halving"


@dataclass(kw_only=True, slots=True)
class SweepConfig:
    """Settings of `launch/sweep.py` for running the members of a sweep."""

    address: str | None = None
    """The cluster's dashboard, `http://host:8265`. None takes RAY_API_SERVER_ADDRESS or RAY_ADDRESS."""
    max_concurrent: int = 1
    """Members in the cluster at once; a member without free accelerators waits `placement.timeout_s`, then fails."""
    poll_s: float = 5.0
    """Seconds between two queries of the jobs' states."""
    search: bool = False
    """Search the swept values in `num_trials` members instead of running the grid of all values. Beside lists and
    `range(...)`, keys may then have an `interval(0.1,0.3)`, an `int(interval(1,8))` or a
    `tag(log,interval(1e-6,1e-4))`."""
    num_trials: int = 20
    """Members of a search; failed and pruned ones count."""
    sampler: Sampler = Sampler.tpe
    """Choice of the next member: `tpe` learns from the results so far, `random` does not."""
    seed: int = 0
    """Seed of the sampler; the members' own is `seed`."""
    objective: str = "reward"
    """Figure that the search improves: a column of the sweep's table (`reward`, `kl`, `success_after`), or a metric of
    `metrics.jsonl`, as its mean over the last steps."""
    direction: Direction = Direction.maximize
    """The better direction of the objective."""
    pruning: Pruning | None = None
    """Rule by which members with a poor objective end early: `median` or `halving`; None trains all to the end."""
    pruning_start: int = 10
    """Training steps before which no member is pruned; with `halving` the first comparison, others follow at 3, 9, ...
    times as many."""

    def __post_init__(self) -> None:
        for name in ("num_trials", "pruning_start"):
            if getattr(self, name) < 1:
                raise InputError(f"sweep.{name}={getattr(self, name)}: give at least 1")
        if self.pruning and self.objective in AT_THE_END:
            raise InputError(
                f"sweep.pruning={self.pruning}: sweep.objective={self.objective} is measured at the end alone; name a "
                "metric of every step, such as reward, or drop sweep.pruning"
            )
        if self.max_concurrent < 1 or self.poll_s <= 0:
            raise InputError(
                f"sweep.max_concurrent={self.max_concurrent}, sweep.poll_s={self.poll_s}: both must be positive"
            )


@dataclass(kw_only=True, slots=True)
class SweepRunConfig:
    """Keys of `launch/sweep.py` in addition to those of its members."""

    sweep: SweepConfig = field(default_factory=SweepConfig)
    """Settings for running the members."""


SEARCH_ONLY = ("num_trials", "sampler", "seed", "objective", "direction", "pruning", "pruning_start")
"""Keys without effect on a grid."""


def check_search_keys(config: SweepConfig, overrides: Sequence[str]) -> None:
    """Raise InputError if an override of a search is given without one."""
    keys = [override.partition("=")[0].removeprefix("sweep.") for override in overrides]
    for key in keys if not config.search else ():
        if key in SEARCH_ONLY:
            raise InputError(f"sweep.{key}: a grid has no use for it; add sweep.search=true, or drop it")


add_schema("sweep_schema", SweepRunConfig)

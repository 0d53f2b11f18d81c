"""The configuration of a sweep whose members are Ray jobs."""

from __future__ import annotations

from dataclasses import dataclass, field

from rlhf.config import add_schema
from rlhf.types import InputError


@dataclass(kw_only=True, slots=True)
class SweepConfig:
    """Settings of `launch/sweep.py` for running the members of a sweep."""

    address: str | None = None
    """The cluster's dashboard, `http://host:8265`. None takes RAY_API_SERVER_ADDRESS or RAY_ADDRESS."""
    max_concurrent: int = 1
    """Members in the cluster at once; a member without free accelerators waits `placement.timeout_s`, then fails."""
    poll_s: float = 5.0
    """Seconds between two queries of the jobs' states."""

    def __post_init__(self) -> None:
        if self.max_concurrent < 1 or self.poll_s <= 0:
            raise InputError(
                f"sweep.max_concurrent={self.max_concurrent}, sweep.poll_s={self.poll_s}: both must be positive"
            )


@dataclass(kw_only=True, slots=True)
class SweepRunConfig:
    """Keys of `launch/sweep.py` in addition to those of its members."""

    sweep: SweepConfig = field(default_factory=SweepConfig)
    """Settings for running the members."""


add_schema("sweep_schema", SweepRunConfig)

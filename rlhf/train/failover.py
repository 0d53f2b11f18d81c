"""Budgets for workers that die during a run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Iterable
from dataclasses import dataclass
from typing import TypeVar

from rlhf.types import InputError, RunError

T = TypeVar("T")
PlaceT = TypeVar("PlaceT")


class WorkerDied(RunError):
    """A process or its node has died; its peers' errors about broken connections are only a consequence."""

    def __init__(self, message: str, role: str, rank: int) -> None:
        super().__init__(message)
        self.role, self.rank = role, rank

    def __reduce__(self) -> tuple[type[WorkerDied], tuple[str, str, int]]:
        return type(self), (str(self), self.role, self.rank)


@dataclass(kw_only=True, slots=True)
class FailoverConfig:
    """Workers that are started again when they die; without a restart left, the run ends and can be resumed."""

    rollout_restarts: int = 8
    """Restarts of engines and of reward workers, in all. Their prompts are sampled again."""
    learner_restarts: int = 2
    """Restarts of policy, critic, reference and teacher, in all. A policy or critic continues from the last
    checkpoint."""

    def __post_init__(self) -> None:
        if min(self.rollout_restarts, self.learner_restarts) < 0:
            raise InputError(
                f"failover.rollout_restarts={self.rollout_restarts}, failover.learner_restarts="
                f"{self.learner_restarts}: give 0 for none, or more"
            )


class Restarts:
    """Restarts that are left, and those that were made."""

    def __init__(self, config: FailoverConfig) -> None:
        self.config = config
        self.made: Counter[str] = Counter()
        """Number of restarts by role."""

    def take(self, death: WorkerDied) -> None:
        """Count one restart of a dead worker. Raises its death, with the spent budget, if none is left."""
        key, roles = next((key, roles) for key, roles in BUDGETS.items() if death.role in roles)
        allowed = getattr(self.config, key)
        if sum(self.made[role] for role in roles) >= allowed:
            message = (
                f"{str(death).rstrip('.')}; failover.{key}={allowed} leaves no restart: raise it, and resume the run"
            )
            raise WorkerDied(message, death.role, death.rank)
        self.made[death.role] += 1

    def figures(self, roles: Iterable[str]) -> dict[str, float]:
        """Return the restarts of each role since the start of the run's process, as metrics."""
        return {f"restarts/{role}": float(self.made[role]) for role in roles}


async def continued(
    attempt: Callable[[PlaceT], Awaitable[T]],
    recover: Callable[[WorkerDied], Awaitable[PlaceT]],
    start: PlaceT,
    restarts: Restarts,
    roles: Collection[str],
) -> T:
    """Return the result of `attempt(start)`, or after the death of a worker of `roles`, in it or in its recovery, that
    of another attempt from where `recover` says. Raises the death if no restart is left."""
    death: WorkerDied | None = None
    while True:
        try:
            return await attempt(start if death is None else await recover(death))
        except WorkerDied as found:
            if found.role not in roles:
                raise
            restarts.take(found)
            death = found


BUDGETS = {
    "rollout_restarts": ("sampler", "reward"),
    "learner_restarts": ("policy", "critic", "reference", "teacher"),
}
"""Roles that share a key of `FailoverConfig`."""

"""The copies of a reward model, which engines call and Ray starts again."""

from __future__ import annotations

from collections.abc import Callable

from rlhf.actors.workers import Workers
from rlhf.train.failover import Restarts, WorkerDied
from rlhf.train.report import RoleUse


class RewardRole:
    """The workers of a reward model. Ray replaces a dead one and repeats its requests; here that is counted."""

    def __init__(self, workers: Workers, restarts: Restarts, tell: Callable[[str], None]) -> None:
        self.workers, self.restarts, self.tell = workers, restarts, tell
        self.births: list[str] = []

    async def start(self) -> None:
        self.births = await self.workers.start(lambda _, actor: actor.start.remote())

    async def use(self) -> RoleUse:
        """Return what the workers used since the last call, and count their restarts. Raises WorkerDied if there were
        more than `failover.rollout_restarts` allows."""
        use = await self.workers.use()
        births = await self.workers.all(lambda _, actor: actor.get_birth.remote())
        for rank, (before, now) in enumerate(zip(self.births, births, strict=True)):
            if before != now:
                death = WorkerDied(f"{self.workers.who(rank)} died", self.workers.role, rank)
                self.restarts.take(death)
                self.tell(f"{death} and was started again; its requests were repeated")
        self.births = births
        return use

"""Frozen models, which are started again when a worker dies."""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TypeVar

from rlhf.actors.roles import ModelRole
from rlhf.actors.workers import Workers
from rlhf.train.clock import Clock
from rlhf.train.failover import Restarts, WorkerDied
from rlhf.train.report import RoleUse
from rlhf.types import Batch, Reference

T = TypeVar("T")


class FrozenRole(ModelRole):
    """A frozen model. The death of a worker costs a restart only, and the interrupted call is repeated."""

    def __init__(
        self,
        workers: Workers,
        column: str,
        clock: Clock,
        restarts: Restarts,
        revive: Callable[[ModelRole, WorkerDied], Awaitable[None]],
    ) -> None:
        """`revive` starts this role again after a death, which `restarts` allowed."""
        super().__init__(workers, column, clock)
        self.restarts, self.revive = restarts, revive
        self.death: WorkerDied | None = None
        """Death after which the role has not started yet: what cancels a call may cancel its revival too."""

    async def compute_columns(self, batch: Batch) -> Mapping[str, Sequence[Reference]]:
        return await self.despite_deaths(functools.partial(super().compute_columns, batch))

    async def use(self) -> RoleUse:
        return await self.despite_deaths(super().use)

    async def despite_deaths(self, call: Callable[[], Awaitable[T]]) -> T:
        """Return the result of a call, repeating it after each death of a worker of this role. Raises the death if no
        restart is left."""
        while True:
            try:
                if self.death is not None:
                    await self.revive(self, self.death)
                    self.death = None
                return await call()
            except WorkerDied as death:
                if death.role != self.workers.role:
                    raise
                self.restarts.take(death)
                self.death = death

"""Frozen models, which outlive the deaths of their workers."""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TypeVar

from rlhf.actors.roles import ModelRole
from rlhf.actors.workers import Workers
from rlhf.train.clock import Clock
from rlhf.train.failover import WorkerDied
from rlhf.train.report import RoleUse
from rlhf.types import Batch, Reference

T = TypeVar("T")


class FrozenRole(ModelRole):
    """A frozen model. A death of one of its workers costs a restart alone: what it was asked is asked again."""

    def __init__(
        self, workers: Workers, column: str, clock: Clock, revive: Callable[[ModelRole, WorkerDied], Awaitable[None]]
    ) -> None:
        """`revive` starts this role again after a death. It raises the death if no restart is left."""
        super().__init__(workers, column, clock)
        self.revive = revive

    async def compute_columns(self, batch: Batch) -> Mapping[str, Sequence[Reference]]:
        return await self.despite_deaths(functools.partial(super().compute_columns, batch))

    async def use(self) -> RoleUse:
        return await self.despite_deaths(super().use)

    async def despite_deaths(self, call: Callable[[], Awaitable[T]]) -> T:
        """Return the result of a call, which is made again after a death."""
        while True:
            try:
                return await call()
            except WorkerDied as death:
                if death.role != self.workers.role:
                    raise
                await self.revive(self, death)

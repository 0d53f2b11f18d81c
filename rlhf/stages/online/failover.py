"""Learners and references that are started again when one of their ranks dies."""

from __future__ import annotations

import time
from collections.abc import Sequence

from rlhf.actors.plan import PlacementConfig
from rlhf.actors.roles import ModelRole
from rlhf.stages.console import CONSOLE
from rlhf.stages.online.engines import wait_for_start
from rlhf.train.failover import Restarts, WorkerDied


async def revive(restarts: Restarts, placement: PlacementConfig, role: ModelRole, death: WorkerDied) -> None:
    """Start a frozen role again. Raises the death if no restart is left."""
    restarts.take(death)
    try:
        seconds = await start_again([role], placement)
    except WorkerDied as another:
        if another.role != death.role:
            raise
        return await revive(restarts, placement, role, another)
    say(death, f"started again in {seconds:.1f} s, and what it was asked is asked again")


async def start_again(roles: Sequence[ModelRole], placement: PlacementConfig) -> float:
    """Start roles on new workers. Return the seconds it took. Raises RunError after the deadline of a start."""
    start = time.perf_counter()
    await wait_for_start([role.restart() for role in roles], placement)
    return time.perf_counter() - start


def say(death: WorkerDied, what: str) -> None:
    CONSOLE.print(f"{str(death).rstrip('.')}; {what}", soft_wrap=True, markup=False, highlight=False)

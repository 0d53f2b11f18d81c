"""A reference whose workers die is started again, and asked again what it was asked."""

import asyncio
from typing import Any

import pytest

from rlhf.actors.frozen_role import FrozenRole
from rlhf.train.clock import Clock
from rlhf.train.failover import FailoverConfig, Restarts, WorkerDied
from rlhf.train.report import RoleUse


def death(role: str) -> WorkerDied:
    return WorkerDied(f"{role} worker 0 on node n died: OOM", role, 0)


class DyingWorkers:
    """Workers of the reference whose calls end with an error as often as listed."""

    role = "reference"

    def __init__(self, *errors: Exception, deaths_in_start: int = 0) -> None:
        self.errors, self.deaths_in_start = list(errors), deaths_in_start
        self.alive, self.may_start = True, asyncio.Event()
        self.may_start.set()

    async def start_again(self) -> None:
        await self.may_start.wait()
        if self.deaths_in_start:
            self.deaths_in_start -= 1
            raise death("reference")
        self.alive = True

    async def use(self) -> RoleUse:
        assert self.alive, "called before it has started"
        self.alive = not self.errors
        if self.errors:
            raise self.errors.pop(0)
        return RoleUse(busy=0.5, memory_bytes=7)


def role_of(workers: Any, learner_restarts: int) -> tuple[FrozenRole, Restarts]:
    restarts = Restarts(FailoverConfig(learner_restarts=learner_restarts))

    async def revive(role: object, death: WorkerDied) -> None:
        assert role is reference
        await workers.start_again()

    reference = FrozenRole(workers, "ref_logprobs", Clock(), restarts, revive)
    return reference, restarts


async def test_it_is_asked_again_after_each_death() -> None:
    reference, restarts = role_of(DyingWorkers(death("reference"), death("reference")), 2)
    assert (await reference.use()).memory_bytes == 7
    assert restarts.made == {"reference": 2}


async def test_a_spent_budget_raises_the_death() -> None:
    reference, _ = role_of(DyingWorkers(death("reference"), death("reference")), 1)
    with pytest.raises(WorkerDied, match=r"failover\.learner_restarts=1 leaves no restart"):
        await reference.use()


@pytest.mark.parametrize("error", [death("policy"), LookupError("a bug")])
async def test_another_error_is_not_its_own(error: Exception) -> None:
    reference, restarts = role_of(DyingWorkers(error), 2)
    with pytest.raises(type(error)):
        await reference.use()
    assert not restarts.made


async def test_it_may_die_again_while_it_starts() -> None:
    reference, restarts = role_of(DyingWorkers(death("reference"), deaths_in_start=1), 2)
    assert (await reference.use()).memory_bytes == 7
    assert restarts.made == {"reference": 2}


async def test_a_revival_that_was_cancelled_is_made_by_the_next_call() -> None:
    """As when a lost node had a rank of the policy too, whose death ends the call."""
    workers = DyingWorkers(death("reference"))
    reference, restarts = role_of(workers, 1)
    workers.may_start.clear()
    call = asyncio.create_task(reference.use())
    await asyncio.sleep(0.01)
    call.cancel()
    await asyncio.gather(call, return_exceptions=True)
    workers.may_start.set()
    assert (await reference.use()).memory_bytes == 7
    assert restarts.made == {"reference": 1}, "one death is one restart"

"""A reference whose workers die is started again, and asked again what it was asked."""

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

    def __init__(self, *errors: Exception) -> None:
        self.errors = list(errors)

    async def use(self) -> RoleUse:
        if self.errors:
            raise self.errors.pop(0)
        return RoleUse(busy=0.5, memory_bytes=7)


def role_of(workers: Any, learner_restarts: int) -> tuple[FrozenRole, Restarts]:
    restarts = Restarts(FailoverConfig(learner_restarts=learner_restarts))

    async def revive(role: object, death: WorkerDied) -> None:
        assert role is reference
        restarts.take(death)

    reference = FrozenRole(workers, "ref_logprobs", Clock(), revive)
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

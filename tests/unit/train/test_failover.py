"""Budgets of restarts, and attempts that continue after a death."""

import pickle

import pytest

from rlhf.train.failover import FailoverConfig, Restarts, WorkerDied, continued
from rlhf.types import InputError


def death(role: str) -> WorkerDied:
    return WorkerDied(f"{role} worker 1 on node n died: OOM", role, 1)


def test_roles_share_budgets_and_a_spent_one_names_its_key() -> None:
    restarts = Restarts(FailoverConfig(rollout_restarts=2, learner_restarts=0))
    restarts.take(death("sampler"))
    restarts.take(death("reward"))
    assert restarts.made == {"sampler": 1, "reward": 1}
    with pytest.raises(WorkerDied, match=r"^reward worker 1 .*; failover.rollout_restarts=2 leaves no restart: raise"):
        restarts.take(death("reward"))
    with pytest.raises(WorkerDied, match=r"failover.learner_restarts=0") as spent:
        restarts.take(death("critic"))
    assert (spent.value.role, spent.value.rank) == ("critic", 1)


def test_a_death_travels_between_processes() -> None:
    copy = pickle.loads(pickle.dumps(death("policy")))
    assert (str(copy), copy.role, copy.rank) == ("policy worker 1 on node n died: OOM", "policy", 1)


def test_negative_budgets_are_refused() -> None:
    with pytest.raises(InputError, match=r"failover.learner_restarts=-1"):
        FailoverConfig(learner_restarts=-1)


class Script:
    """Attempts and recoveries that end as listed, in order."""

    def __init__(self, *outcomes: object) -> None:
        self.outcomes, self.calls = list(outcomes), []

    async def next(self, name: str, argument: object) -> object:
        self.calls.append((name, argument))
        outcome = self.outcomes.pop(0)
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome

    async def run(self, learner_restarts: int) -> object:
        self.restarts = Restarts(FailoverConfig(learner_restarts=learner_restarts))
        return await continued(
            lambda start: self.next("attempt", start),
            lambda death: self.next("recover", death.role),
            "start",
            self.restarts,
            {"policy", "critic"},
        )


async def test_a_run_continues_from_where_its_recovery_says() -> None:
    script = Script(death("policy"), "step 2", death("critic"), "step 3", "model")
    assert await script.run(2) == "model"
    assert script.calls == [
        ("attempt", "start"), ("recover", "policy"), ("attempt", "step 2"), ("recover", "critic"),
        ("attempt", "step 3"),
    ]  # fmt: skip
    assert script.restarts.figures(["policy", "critic", "reference"]) == {
        "restarts/policy": 1, "restarts/critic": 1, "restarts/reference": 0,
    }  # fmt: skip


async def test_a_death_during_recovery_takes_from_the_same_budget() -> None:
    script = Script(death("policy"), death("critic"), "step 2", "model")
    assert await script.run(2) == "model"
    assert script.calls[1:3] == [("recover", "policy"), ("recover", "critic")]
    with pytest.raises(WorkerDied, match=r"^critic worker 1 .* failover.learner_restarts=1 leaves no restart"):
        await Script(death("policy"), death("critic")).run(1)


@pytest.mark.parametrize("error", [death("sampler"), death("reference"), LookupError("a bug")])
async def test_what_no_learner_died_of_ends_the_run(error: Exception) -> None:
    with pytest.raises(type(error), match=str(error)):
        await Script(error).run(2)

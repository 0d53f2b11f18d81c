"""Budgets of restarts."""

import pickle

import pytest

from rlhf.train.failover import FailoverConfig, Restarts, WorkerDied
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

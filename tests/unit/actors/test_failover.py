"""Engines that die: their prompts, their weights, and the calls to all that go on with the others."""

from __future__ import annotations

import asyncio

import pytest

from rlhf.runtimes.transport import Transport
from rlhf.train.failover import WorkerDied
from rlhf.train.fleet import Fleet, State
from rlhf.types import InputError, RunError
from tests.unit.actors.fake_engines import Rollouts, until


async def test_prompts_of_a_dead_engine_are_sampled_once_by_the_others() -> None:
    run = Rollouts()
    await run.push()
    run.faults.deadly.add((0, 1, "collect"))
    starting = run.faults.close(0, 2, "start")
    groups = await asyncio.gather(*(run.collect(number) for number in range(6)))
    assert groups == [(number, 0, 1) for number in range(6)]
    assert run.restarts.made == {"sampler": 1}
    assert run.pool.fleet.states == {0: State.down, 1: State.up}
    starting.set()
    await until(lambda: run.pool.fleet.states[0] is State.up)
    assert run.versions == [0, 0]
    assert run.said[0].startswith("sampler worker 0 on node here died; its prompts are sampled again, and it is")
    assert "sampler worker 0 on node here samples again after" in run.said[1]
    assert run.said[1].endswith("with version 0 of the weights")
    assert await run.collect(7) == (7, 0, 0)


@pytest.mark.parametrize("shared", [False, True], ids=["own accelerators", "the policy's accelerators"])
async def test_prompts_wait_for_the_only_engine_until_it_has_the_current_weights(shared: bool) -> None:
    run = Rollouts(1, shared=shared)
    for _ in range(3):
        await run.push()
    run.faults.deadly.add((0, 1, "collect"))
    async with asyncio.timeout(5):
        assert await asyncio.gather(*(run.collect(number) for number in range(4))) == [(i, 2, 0) for i in range(4)]
    assert run.restarts.made == {"sampler": 1}
    assert await run.push() == 3, "the sync of one engine is no new version"


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("transport", [Transport.object_store, Transport.gloo])
@pytest.mark.parametrize("call", ["connect", "load_begin", "load", "load_finish", "logprobs"])
async def test_a_push_goes_on_with_the_others_when_an_engine_dies(call: str, transport: str, shared: bool) -> None:
    run = Rollouts(transport=transport, shared=shared)
    await run.push()
    if call != "connect":
        run.faults.deadly.add((0, 1, call))
        run.faults.broken = transport == Transport.gloo and call in ("load_begin", "load")
        assert await run.push() == 1
    assert run.workers.actors[1].holds == run.sync.next_version - 1
    await until(lambda: run.pool.fleet.ranks(State.up) == [0, 1])
    last = run.sync.next_version - 1
    assert run.versions == [last, last]
    # A successor that is not in the group yet gets its weights through the object store, and joins with the next push.
    assert await run.push() == last + 1
    assert run.versions == [last + 1] * 2
    if transport == Transport.gloo:
        assert run.policy.links[-1] == (transport, 3)
        assert {engine.group for engine in run.workers.actors} == {"gloo of 3"}


@pytest.mark.parametrize("transport", [Transport.object_store, Transport.gloo])
async def test_a_push_ends_though_every_engine_dies_in_it(transport: str) -> None:
    run = Rollouts(transport=transport)
    await run.push()
    run.faults.deadly |= {(0, 1, "load"), (1, 1, "load_finish")}
    assert await run.push() == 1
    assert await run.collect(0) in [(0, 1, 0), (0, 1, 1)]
    await until(lambda: run.pool.fleet.ranks(State.up) == [0, 1])
    assert run.versions == [1, 1]


async def test_an_engine_that_started_before_a_push_gets_its_weights_from_that() -> None:
    run = Rollouts()
    await run.push()
    async with run.at_rest:  # the policy learns
        run.faults.deadly.add((0, 1, "collect"))
        await run.collect(0)
        await until(lambda: run.pool.fleet.states[0] is State.stale)
        assert await run.collect(1) == (1, 0, 1)
        sent = run.policy.sent
        assert await run.sync.push(run.policy, run.pool) == 1
        assert run.pool.fleet.states[0] is State.up
    assert run.versions == [1, 1]
    await run.pool.tasks[0]
    assert run.policy.sent == sent + 1, "it was sent the version twice"


async def test_an_engine_that_starts_during_a_push_takes_no_part_in_it() -> None:
    run = Rollouts()
    await run.push()
    holding, starting = run.faults.close(1, 1, "load"), run.faults.close(0, 2, "start")
    run.faults.deadly.add((0, 1, "load_begin"))
    push = asyncio.create_task(run.push())
    await until(lambda: run.workers.actors[1].calls["load"] > 0)
    starting.set()
    await until(lambda: run.pool.fleet.states[0] is State.stale)
    holding.set()
    assert await push == 1
    await until(lambda: run.pool.fleet.states[0] is State.up)
    assert run.versions == [1, 1]


@pytest.mark.parametrize("call", ["start", "load_begin", "load", "logprobs"])
async def test_an_engine_may_die_again_while_it_comes_back(call: str) -> None:
    run = Rollouts(1)
    await run.push()
    run.faults.deadly |= {(0, 1, "collect"), (0, 2, call), (0, 3, call)}
    async with asyncio.timeout(5):
        assert await run.collect(0) == (0, 0, 0)
    assert run.restarts.made == {"sampler": 3}
    assert run.workers.starts == {0: 4}


async def test_without_a_restart_left_whoever_needs_an_engine_learns_why() -> None:
    run = Rollouts(1, restarts=1)
    await run.push()
    run.faults.deadly |= {(0, 1, "collect"), (0, 2, "collect")}
    outcomes = await asyncio.gather(*(run.collect(number) for number in range(3)), return_exceptions=True)
    assert all(isinstance(outcome, WorkerDied) for outcome in outcomes)
    with pytest.raises(WorkerDied, match=r"^sampler worker 0 on node here died; failover.rollout_restarts=1 leaves no"):
        await run.collect(4)
    with pytest.raises(WorkerDied, match="leaves no restart"):
        await run.push()


async def test_the_last_restart_spent_in_a_push_ends_the_run() -> None:
    run = Rollouts(restarts=0)
    await run.push()
    run.faults.deadly.add((0, 1, "load"))
    with pytest.raises(WorkerDied, match=r"failover\.rollout_restarts=0 leaves no restart"):
        await run.push()


@pytest.mark.parametrize(
    ("fault", "error", "words"),
    [
        (InputError("no such model"), InputError, "no such model"),
        (None, RunError, r"was not ready again within placement.start_timeout_s=0.5"),
    ],
)
async def test_an_engine_that_cannot_start_ends_the_run(
    fault: InputError | None, error: type[Exception], words: str
) -> None:
    run = Rollouts(1)
    await run.push()
    run.faults.deadly.add((0, 1, "collect"))
    run.faults.start_error = fault
    if fault is None:
        run.faults.close(0, 2, "start")
    with pytest.raises(error, match=words):
        await run.collect(0)


@pytest.mark.parametrize("call", ["expect_weights", "offload", "onload", "memory"])
async def test_calls_to_all_go_on_with_the_others(call: str) -> None:
    run = Rollouts(shared=True)
    await run.push()
    run.faults.deadly.add((0, 1, call))
    await run.collect(0)
    await run.pool.expect_weights()
    await run.workers.use()
    await run.push()
    await run.collect(1)
    await until(lambda: run.pool.fleet.ranks(State.up) == [0, 1])
    assert run.versions == [1, 1]
    assert run.restarts.made == {"sampler": 1}


async def test_an_error_of_a_living_engine_ends_a_push() -> None:
    run = Rollouts(transport=Transport.gloo)
    await run.push()
    run.faults.broken = True
    with pytest.raises(RunError, match="connection closed by peer"):
        await run.push()


async def test_the_policy_sends_all_buckets_after_an_engine_failed() -> None:
    """Its ranks gather together: one that stops early leaves the others in a collective."""
    run = Rollouts(transport=Transport.gloo)
    await run.push()
    numbers = []

    async def weights(*_: object, **__: object):
        for number in range(3):
            numbers.append(number)
            yield [(number, run.policy.group)]

    run.policy.weights = weights
    run.faults.broken = True
    with pytest.raises(RunError, match="connection closed by peer"):
        await run.push()
    assert numbers == [0, 1, 2]


async def test_an_engine_that_dies_at_the_end_stays_dead() -> None:
    run = Rollouts()
    await run.push()
    run.faults.deadly.add((0, 1, "close"))
    await run.pool.close()
    assert run.workers.actors[1].calls["close"] == 1
    assert run.restarts.made == {}
    assert run.said == []


async def test_an_engine_that_is_started_at_the_end_is_killed() -> None:
    run = Rollouts()
    await run.push()
    run.faults.deadly.add((0, 1, "collect"))
    run.faults.close(0, 2, "start")
    await run.collect(0)
    await run.pool.close()
    assert run.workers.killed[-1] is run.workers.actors[0]
    with pytest.raises(asyncio.CancelledError):
        await run.pool.tasks[0]


async def test_without_a_training_a_restarted_engine_has_the_weights_it_needs() -> None:
    run = Rollouts(1)
    run.pool.catch_up = None
    run.faults.deadly.add((0, 1, "collect"))
    assert await run.collect(0) == (0, None, 0)
    assert run.said[1].endswith("with the run's model")


async def test_a_training_that_begins_again_takes_over_engines_that_are_not_back() -> None:
    """As after the death of a learner, whose error ended the sync of a restarted engine."""
    run = Rollouts()
    await run.push()

    async def policy_is_dead(rank: int) -> None:
        raise WorkerDied("policy worker 0 died", "policy", 0)

    run.pool.catch_up = policy_is_dead
    run.faults.deadly |= {(0, 1, "collect"), (1, 1, "collect")}
    with pytest.raises(WorkerDied, match="policy worker 0 died"):
        await run.collect(0)
    await until(lambda: all(task.done() for task in run.pool.tasks.values()))
    run.pool.follow(run.catch_up)
    assert await run.push() == 1
    assert await run.collect(1) == (1, 1, 0)
    assert run.versions == [1, 1]


async def test_a_fleet_chooses_the_least_loaded_that_is_up() -> None:
    fleet = Fleet(3)
    with fleet.load(0, 4), fleet.load(1, 2):
        assert fleet.least_loaded() == 2
        fleet.set(2, State.stale)
        assert fleet.least_loaded() == 1
        fleet.set(1, State.down)
        assert (fleet.least_loaded(), fleet.started) == (0, [0, 2])
        fleet.set(0, State.down)
        assert fleet.least_loaded() is None
    waiting = asyncio.create_task(fleet.wait_for_one())
    await asyncio.sleep(0)
    assert not waiting.done()
    fleet.set(2, State.up)
    await waiting

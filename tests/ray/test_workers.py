"""What a role's workers say when one of them is gone."""

import asyncio
import os
import signal
from collections.abc import Iterator
from typing import Any

import pytest

DEADLINE_S = 300


class Giver:
    def parts(self) -> Iterator[int]:
        yield 1
        os.kill(os.getpid(), signal.SIGKILL)
        yield 2


class Taker:
    def process_id(self) -> int:
        return os.getpid()

    def take(self, part: int) -> int:
        return part

    def memory(self) -> int:
        return 0

    def lose_a_peer(self, rank: int) -> None:
        """Rank 1 dies, and its peer only knows that the connection is broken."""
        if rank == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        raise RuntimeError("Connection closed by peer")

    def fail(self) -> None:
        raise RuntimeError("out of memory")


def test_who_waits_for_a_dead_worker_names_the_dead_one(cluster: None) -> None:
    from rlhf.actors.placement import reserved
    from rlhf.actors.plan import RolePlan, make_plan
    from rlhf.actors.workers import Spawner
    from rlhf.train.clock import Clock
    from rlhf.train.failover import WorkerDied

    async def give_and_take() -> None:
        giver, taker = spawn("policy", Giver), spawn("sampler", Taker)
        stream = giver.actors[0].parts.options(num_returns="streaming").remote()
        async for reference in stream:
            await taker.all(lambda _, actor, part=reference: actor.take.remote(part))

    plan = make_plan([RolePlan(role="policy", num_workers=1), RolePlan(role="sampler", num_workers=1)])
    with reserved(plan, DEADLINE_S) as bundles:
        spawn = Spawner(plan, bundles, Clock())
        with pytest.raises(WorkerDied, match=r"policy worker 0 on node .* died"):
            asyncio.run(asyncio.wait_for(give_and_take(), DEADLINE_S))


def test_a_dead_worker_has_a_successor_in_its_place(cluster: None) -> None:
    from rlhf.actors.placement import reserved
    from rlhf.actors.plan import RolePlan, make_plan
    from rlhf.actors.workers import Spawner
    from rlhf.train.clock import Clock
    from rlhf.train.failover import WorkerDied

    async def call_until_one_is_dead(takers: Any) -> None:
        while True:
            await takers.all(lambda rank, actor: actor.take.remote(rank))

    async def die_and_go_on() -> None:
        takers = Spawner(plan, bundles, Clock())("sampler", Taker)
        os.kill(await takers.actors[1].process_id.remote(), signal.SIGKILL)
        with pytest.raises(WorkerDied, match=r"sampler worker 1 on node .* died") as died:
            await call_until_one_is_dead(takers)
        assert (died.value.role, died.value.rank) == ("sampler", 1)
        takers.respawn(1)
        assert await takers.all(lambda rank, actor: actor.take.remote(rank)) == [0, 1]

    plan = make_plan([RolePlan(role="sampler", num_workers=2)])
    with reserved(plan, DEADLINE_S) as bundles:
        asyncio.run(asyncio.wait_for(die_and_go_on(), DEADLINE_S))


def test_an_error_that_a_death_caused_names_the_dead_worker(cluster: None) -> None:
    from rlhf.actors.placement import reserved
    from rlhf.actors.plan import RolePlan, make_plan
    from rlhf.actors.workers import Spawner
    from rlhf.train.clock import Clock
    from rlhf.train.failover import WorkerDied
    from rlhf.types import RunError

    async def lose_a_peer() -> None:
        takers = Spawner(plan, bundles, Clock())("policy", Taker)
        with pytest.raises(RunError, match=r"policy worker 0 on node .* failed: RuntimeError: out of memory") as failed:
            await takers.all(lambda rank, actor: actor.take.remote(rank) if rank else actor.fail.remote())
        assert not isinstance(failed.value, WorkerDied), "nobody died"
        with pytest.raises(WorkerDied, match=r"policy worker 1 on node .* died"):
            await takers.all(lambda rank, actor: actor.lose_a_peer.remote(rank))

    plan = make_plan([RolePlan(role="policy", num_workers=2)])
    with reserved(plan, DEADLINE_S) as bundles:
        asyncio.run(asyncio.wait_for(lose_a_peer(), DEADLINE_S))

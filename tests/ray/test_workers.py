"""What a role's workers say when one of them is gone."""

import asyncio
import os
import signal
from collections.abc import Iterator

import pytest

DEADLINE_S = 300


class Giver:
    def parts(self) -> Iterator[int]:
        yield 1
        os.kill(os.getpid(), signal.SIGKILL)
        yield 2


class Taker:
    def take(self, part: int) -> int:
        return part


def test_who_waits_for_a_dead_worker_names_the_dead_one(cluster: None) -> None:
    from rlhf.actors.placement import reserved
    from rlhf.actors.plan import RolePlan, make_plan
    from rlhf.actors.workers import Spawner, WorkerDied
    from rlhf.train.clock import Clock

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

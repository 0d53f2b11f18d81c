"""The engines of a run, as the loop uses them: prompts in, groups out, and weights of new versions.

A death is noticed by the call that it ends, and the run continues:

    collect, or a call to all engines -> WorkerDied
      '-> lost                                     the engine is down; counted against failover.rollout_restarts
           |-> Workers.respawn                     a new actor in its place
           '-> restart, a task beside the run
                |-> actor.start, while its phase holds the lease       stale: it takes part in weight syncs
                '-> OnlineTrainer.catch_up         the current version, unless a step's own sync came first
                     '-> BucketSync -> admit       up: it takes prompts
    collect waits for an engine that is up, and samples its prompt there with the same seeds
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any

import numpy as np
import ray

from rlhf.actors.judge_worker import JudgeOwner
from rlhf.actors.reward_role import RewardRole
from rlhf.actors.sampler_worker import SamplerSpec
from rlhf.actors.workers import Workers
from rlhf.runtimes.transport import Link
from rlhf.train.failover import Restarts, WorkerDied
from rlhf.train.fleet import Fleet, State
from rlhf.train.lease import hold_all
from rlhf.types import Group, Prompt, Reference, RunError, Sampling


class SamplerPool:
    """The engines. A whole group goes to the least loaded engine, which shares the prompt's cache among its
    rollouts."""

    def __init__(
        self,
        workers: Workers,
        reward: RewardRole | None,
        restarts: Restarts,
        judge: JudgeOwner | None = None,
        *,
        start_timeout_s: float,
        tell: Callable[[str], None],
    ) -> None:
        """`reward`: the reward model, `judge`: a judge behind an endpoint, which the engines' actors call when rollouts
        end. `start_timeout_s`: deadline of an engine that is started again."""
        self.workers, self.reward, self.restarts, self.judge = workers, reward, restarts, judge
        self.start_timeout_s, self.tell = start_timeout_s, tell
        leases = [workers.lease, *([reward.workers.lease] if reward else [])]
        self.leases = list(dict.fromkeys(leases))
        self.fleet = Fleet(len(workers))
        self.receivers = set(self.fleet.started)
        """Engines of the weight sync in progress, or of the last."""
        self.catch_up: Callable[[int], Awaitable[None]] | None = None
        self.tasks: dict[int, asyncio.Task[None]] = {}
        self.died_at: dict[int, float] = {}
        self.closing = False
        workers.on_death = self.lost

    async def start(self, spec: SamplerSpec) -> None:
        self.spec = spec
        if self.judge is not None:
            await self.judge.start()

        async def engines() -> None:
            await self.workers.start(lambda _, actor: self.start_one(actor))

        if self.reward is None:
            return await engines()
        if self.reward.workers.lease is not self.workers.lease:
            await asyncio.gather(self.reward.start(), engines())
        else:
            # An engine measures the free memory of its accelerator, so the reward model must be loaded before it.
            await self.reward.start()
            await engines()

    def start_one(self, actor: Any) -> Awaitable[None]:
        models = self.reward.workers.actors if self.reward else []
        return actor.start.remote(self.spec, models, self.judge.actor if self.judge else None)

    async def collect(self, prompt: Prompt, epoch: int, requests: Sequence[Sampling]) -> Group:
        """Return the prompt's group; if its engine dies, from another. Raises WorkerDied without a restart left."""
        while True:
            # No lease is held here: the sync that an engine waits for may need the accelerators.
            await self.fleet.wait_for_one()
            async with hold_all(self.leases, self.workers.phase):
                rank = self.fleet.least_loaded()
                if rank is None:
                    continue
                actor = self.workers.actors[rank]
                with self.fleet.load(rank, len(requests)):
                    try:
                        rollouts, pending = actor.collect.options(num_returns=2).remote(prompt, epoch, requests)
                        for infos in await self.workers.unless_dead(rank, actor, pending):
                            return Group(prompt=prompt, rollouts=rollouts, infos=infos)
                    except asyncio.CancelledError:
                        # The engine would continue rollouts that no caller waits for.
                        ray.cancel(rollouts, recursive=False)
                        raise

    def follow(self, catch_up: Callable[[int], Awaitable[None]]) -> None:
        """Take weights from a training run: its first sync includes every started engine, and `catch_up(rank)` brings
        one that starts later to the current version. An error of an engine that stays away is kept for that sync;
        those that the end of the run before caused are forgotten."""
        self.catch_up = catch_up
        self.end_catch_ups()
        error = self.fleet.error
        left = [rank for rank in self.fleet.ranks(State.down) if rank not in self.tasks or self.tasks[rank].done()]
        if left and not (isinstance(error, WorkerDied) and error.role != self.workers.role):
            return
        self.fleet.fail(None)
        for rank in left:
            self.workers.respawn(rank)
            self.begin_restart(rank)

    async def leave(self) -> None:
        """Take no more weights from a training that has ended: an engine that has started waits for the next."""
        self.catch_up = wait_for_a_training
        await asyncio.gather(*self.end_catch_ups(), return_exceptions=True)

    def end_catch_ups(self) -> list[asyncio.Task[None]]:
        """Cancel and return the restarts of engines that have started and have no current weights."""
        ended = [self.tasks.pop(rank) for rank in self.fleet.ranks(State.stale) if rank in self.tasks]
        for task in ended:
            task.cancel()
        return ended

    def lost(self, death: WorkerDied, actor: Any) -> None:
        """Start the successor of a dead engine. Raises WorkerDied if no restart is left."""
        rank = death.rank
        if self.workers.actors[rank] is not actor:
            return  # several calls end with one death
        self.workers.down.add(rank)
        self.receivers.discard(rank)
        self.fleet.set(rank, State.down)
        if self.closing:
            return
        try:
            self.restarts.take(death)
        except WorkerDied as spent:
            self.fleet.fail(spent)
            raise
        self.tell(f"{death}; its prompts are sampled again, and it is started again")
        self.died_at[rank] = time.perf_counter()
        self.workers.respawn(rank)
        self.begin_restart(rank)

    def begin_restart(self, rank: int) -> None:
        task = asyncio.create_task(self.restart(rank))
        task.add_done_callback(self.note_end)
        self.tasks[rank] = task

    def note_end(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None and task in self.tasks.values():
            self.fleet.fail(error)

    async def restart(self, rank: int) -> None:
        """Start a new engine and have it brought to the current version. Raises RunError after the deadline."""
        actor = self.workers.actors[rank]
        try:
            # An engine measures the free memory of its accelerators, so roles of other phases must have left.
            async with self.workers.lease.hold(self.workers.phase):
                async with asyncio.timeout(self.start_timeout_s):
                    if not await self.workers.unless_dead(rank, actor, self.start_one(actor)):
                        return
                self.workers.down.discard(rank)
                self.fleet.set(rank, State.stale)
            if self.catch_up is None:
                self.receivers = {rank}
                self.admit("the run's model")
            else:
                await self.catch_up(rank)
        except TimeoutError:
            raise RunError(
                f"{self.workers.who(rank)} was not ready again within placement.start_timeout_s="
                f"{self.start_timeout_s:g}; look at its log in the Ray session folder, and resume the run"
            ) from None

    # Weights arrive while the policy holds shared accelerators, so an engine allocates memory for weights only.

    def choose_receivers(self, ranks: Iterable[int] | None = None) -> None:
        """Begin a weight sync of these engines, or of all, as far as they have started. A dead one leaves it, and its
        successor takes part in the next. Raises the error of an engine that cannot be started again."""
        if self.fleet.error is not None:
            raise self.fleet.error
        started = set(self.fleet.started)
        self.receivers = started if ranks is None else started & set(ranks)

    def admit(self, weights: str) -> None:
        """Let the receivers take prompts: they hold the weights."""
        for rank in sorted(self.receivers):
            if self.fleet.states[rank] is State.stale:
                seconds = time.perf_counter() - self.died_at[rank]
                self.tell(f"{self.workers.who(rank)} samples again after {seconds:.1f} s, with {weights}")
            self.fleet.set(rank, State.up)

    def is_stale(self, rank: int) -> bool:
        return self.fleet.states[rank] is State.stale

    @property
    def members(self) -> frozenset[tuple[int, int]]:
        """Receivers by rank and number of starts: a group of other members cannot carry weights to them."""
        return frozenset((rank, self.workers.starts[rank]) for rank in self.receivers)

    @property
    def num_receivers(self) -> int:
        """Number of processes that receive weights: one per accelerator of every receiving engine."""
        return len(self.receivers) * self.workers.accelerators_each

    async def connect(self, link: Link) -> None:
        each = self.workers.accelerators_each
        first_ranks = {rank: 1 + i * each for i, rank in enumerate(sorted(self.receivers))}
        await self.on_receivers(lambda rank, actor: actor.connect.remote(link, first_ranks[rank]))

    async def expect_weights(self) -> None:
        """Announce that new weights come before the next rollout, so that sleeping engines may drop the old ones."""
        await self.workers.all(lambda _, actor: actor.expect_weights.remote())

    async def load_begin(self) -> None:
        await self.on_receivers(lambda _, actor: actor.load_begin.remote())

    async def load(self, buckets: Sequence[Reference]) -> None:
        """Load one bucket into all receivers, or one bucket per engine."""
        await self.on_receivers(lambda rank, actor: actor.load.remote(buckets[rank % len(buckets)]))

    async def load_finish(self, version: int) -> None:
        await self.on_receivers(lambda _, actor: actor.load_finish.remote(version))

    async def logprobs(self, token_ids: Sequence[int]) -> dict[int, np.ndarray]:
        """Return the receivers' logprobs by rank. The engines must be `at_work`."""
        return await self.on_receivers(lambda _, actor: actor.logprobs.remote(token_ids))

    def at_work(self) -> AbstractAsyncContextManager[None]:
        """Hold the engines' accelerators for a sequence of calls."""
        return self.workers.lease.hold(self.workers.phase)

    async def find_dead(self) -> None:
        """Find receivers that have died, whose peers' errors may have come first."""
        await self.on_receivers(lambda _, actor: actor.answer.remote())

    def on_receivers(self, call: Callable[[int, Any], Awaitable[Any]]) -> Awaitable[dict[int, Any]]:
        return self.workers.by_rank(call, sorted(self.receivers))

    async def take_figures(self) -> dict[str, float]:
        """Return the judge's metrics since the last call; empty without a judge."""
        return await self.judge.take_figures() if self.judge else {}

    async def close(self) -> None:
        """End the engines, also while they sleep or start, and then the judge."""
        self.closing = True
        for task in self.tasks.values():
            task.cancel()
        for rank in self.fleet.ranks(State.down):
            self.workers.kill(rank)
        await self.workers.all(lambda _, actor: actor.close.remote())
        if self.judge is not None:
            await self.judge.close()


async def wait_for_a_training(rank: int) -> None:
    """Wait until `SamplerPool.follow` ends the wait: no training has weights for an engine yet."""
    await asyncio.Event().wait()

"""A role's Ray actors, which are spawned and called together, and fail together."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any, TypeVar

import ray
from ray.exceptions import ActorUnavailableError, RayActorError, RayTaskError
from ray.util.placement_group import PlacementGroup
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from rlhf.actors.nodes import nodes_of
from rlhf.actors.placement import Bundles
from rlhf.actors.plan import AcceleratorGroup, Plan, RolePlan
from rlhf.runtimes.protocols import EngineDied
from rlhf.train.clock import BusyClock, Clock
from rlhf.train.failover import WorkerDied
from rlhf.train.lease import Lease
from rlhf.train.report import RoleUse
from rlhf.train.together import together
from rlhf.types import InputError, Reference, RunError

T = TypeVar("T")
STREAM_AHEAD = 2
"""Number of items that a worker's generator may run ahead of its consumer: one weight bucket is loaded while the next
is gathered."""
DEATH_NOTICED_S = 10.0
"""Seconds within which a worker's death is looked for when another worker fails; Ray notices that of a process within
one."""


class Workers:
    """The actors of one role, in the order of their ranks. Calls run while the role's phase holds the lease."""

    def __init__(
        self,
        plan: RolePlan,
        actor_class: type,
        group: AcceleratorGroup,
        bundles: PlacementGroup,
        lease: Lease,
        clock: Clock,
        known: dict[str, tuple[Workers, int]],
        *arguments: Any,
        restarts: int = 0,
    ) -> None:
        """`known` has the workers and the rank of every actor of the run by its id; these actors are added.
        `arguments`: those of the actor's constructor. `restarts`: times that Ray itself may start an actor again and
        repeat its calls, for one without a state of its own."""
        self.accelerators_each = plan.accelerators_per_worker
        self.role, self.phase, self.lease, self.clock = plan.role, plan.phase, lease, clock
        # Ray assigns a fraction of an accelerator to each role that shares it, in units of 1/10000.
        share = plan.accelerators_per_worker if len(group.roles) == 1 else int(1e4 / len(group.roles)) / 1e4
        self.nodes, self.busy = nodes_of(bundles), BusyClock(plan.num_workers)
        # Ray gives a process as many OpenMP threads as it has CPUs.
        num_cpus = group.cpus(int(bundles.bundle_specs[0]["CPU"]))[plan.role]
        self.remote_class = ray.remote(
            num_cpus=num_cpus, num_gpus=share, max_restarts=restarts, max_task_retries=restarts
        )(actor_class)
        self.arguments, self.bundles, self.known = arguments, bundles, known
        self.down: set[int] = set()
        """Ranks whose actor is gone or is being started again: calls to all leave them out."""
        self.on_death: Callable[[WorkerDied, Any], None] | None = None
        """Handler of the death of a worker, with its actor, in a call to all, which continues with the others. None:
        the death ends the call."""
        self.starts: Counter[int] = Counter()
        self.actors = [self.spawn(rank) for rank in range(plan.num_workers)]

    def spawn(self, rank: int) -> Any:
        """Create the actor of a rank, in the rank's bundle."""
        self.starts[rank] += 1
        again = "" if self.starts[rank] == 1 else f"-start-{self.starts[rank]}"
        actor = self.remote_class.options(
            scheduling_strategy=PlacementGroupSchedulingStrategy(self.bundles, placement_group_bundle_index=rank),
            # A dead actor keeps its name for a while.
            name=f"{self.role}-{rank}{again}",
            # Actors of an earlier stage on this cluster, with the same names, may still be ending.
            namespace=self.bundles.id.hex(),
        ).remote(*self.arguments)
        self.known[actor._actor_id.hex()] = (self, rank)
        return actor

    def respawn(self, rank: int) -> None:
        """Put a new actor, which must be started, in the place of one that has died or is to be ended."""
        self.kill(rank)
        self.actors[rank] = self.spawn(rank)

    def kill(self, rank: int) -> None:
        ray.kill(self.actors[rank])

    async def respawn_all(self) -> None:
        """Put new actors, which must be started, in the place of all, since a process group cannot lose a rank. Peers
        of a dead rank may hang in a collective: they are killed."""
        await self.lease.dismiss(self.phase, self)
        for rank in range(len(self)):
            self.respawn(rank)

    def __len__(self) -> int:
        return len(self.actors)

    async def start(self, call: Callable[[int, Any], Awaitable[T]]) -> list[T]:
        """Start each actor by `call`; after that the role takes part in the lease."""
        async with self.lease.hold(self.phase):
            results = await self.all(call)
            self.lease.admit(self.phase, self)
        return results

    async def each(self, call: Callable[[int, Any], Awaitable[T]]) -> list[T]:
        """Run `call(rank, actor)` for all at once, while the role's phase holds the lease."""
        async with self.lease.hold(self.phase):
            return await self.all(call)

    async def all(self, call: Callable[[int, Any], Awaitable[T]]) -> list[T]:
        """Run `call(rank, actor)` for all at once, without a lease. The first failure ends the wait."""
        return list((await self.by_rank(call, self.live)).values())

    @property
    def live(self) -> list[int]:
        return [rank for rank in range(len(self)) if rank not in self.down]

    async def by_rank(self, call: Callable[[int, Any], Awaitable[T]], ranks: Sequence[int]) -> dict[int, T]:
        """Run `call(rank, actor)` for these ranks, as `all` does; return the results of those that live."""
        actors = {rank: self.actors[rank] for rank in ranks}
        calls = [self.unless_dead(rank, actor, call(rank, actor)) for rank, actor in actors.items()]
        results = dict(zip(ranks, await together(*calls), strict=True))
        return {rank: result for rank, found in results.items() for result in found}

    async def unless_dead(self, rank: int, actor: Any, result: Awaitable[T]) -> list[T]:
        """Return the result; nothing if the worker dies and a handler takes its death."""
        try:
            return [await self.guard(rank, result)]
        except WorkerDied as death:
            if self.on_death is None or (death.role, death.rank) != (self.role, rank):
                raise
            self.on_death(death, actor)
            return []

    async def offload(self) -> None:
        with self.clock(f"offload_{self.role}"):
            actors = {rank: self.actors[rank] for rank in self.live}
            calls = (self.unless_dead(rank, actor, actor.offload.remote()) for rank, actor in actors.items())
            outcomes = await asyncio.gather(*calls, return_exceptions=True)
        # A dead worker holds no memory. The next call of the role raises its death.
        failures = [each for each in outcomes if isinstance(each, BaseException) and not isinstance(each, WorkerDied)]
        if failures:
            raise failures[0]
        left = [held for each in outcomes if isinstance(each, list) for held in each]
        self.clock.measure(f"bytes_after_offload/{self.role}", max(left, default=0))

    async def onload(self) -> None:
        with self.clock(f"onload_{self.role}"):
            held = await self.all(lambda _, actor: actor.onload.remote())
        self.clock.measure(f"bytes_after_onload/{self.role}", max(held, default=0))

    async def stream(
        self, method: str, *arguments: Any, from_every_rank: bool = False
    ) -> AsyncIterator[list[Reference]]:
        """Yield references from rank 0's generator, or with `from_every_rank` from each rank's; every rank runs it."""
        async with self.lease.hold(self.phase):
            streams = [
                getattr(actor, method)
                .options(num_returns="streaming", _generator_backpressure_num_objects=STREAM_AHEAD)
                .remote(*arguments)
                for actor in self.actors
            ]
            num_yielding = len(streams) if from_every_rank else 1
            others = [
                asyncio.create_task(self.guard(i, exhaust(streams[i]))) for i in range(num_yielding, len(streams))
            ]
            yielding = [aiter(stream) for stream in streams[:num_yielding]]
            try:
                while references := await unless_one_fails(self.next_of(yielding), others):
                    yield references
                await together(*others)
            finally:
                for other in others:
                    other.cancel()
                await asyncio.gather(*others, return_exceptions=True)

    async def next_of(self, streams: Sequence[AsyncIterator[Reference]]) -> list[Reference]:
        """Return the next value of each generator; nothing at their end."""
        found = await together(*(self.guard(i, anext(stream, None)) for i, stream in enumerate(streams)))
        return [reference for reference in found if reference is not None]

    async def use(self) -> RoleUse:
        """Return what the workers used since the last call. An actor class answers `memory()`, in bytes."""
        # The driver only sees its own calls; a reward model is called by the engines' actors.
        busy = None if self.role == "reward" else self.busy.take()
        memory = await self.all(lambda _, actor: actor.memory.remote())
        return RoleUse(busy=busy, memory_bytes=max(memory, default=0))

    async def guard(self, rank: int, result: Awaitable[T]) -> T:
        """Return the result, or raise an error with the failed worker and its node."""
        try:
            with self.busy(rank):
                return await result
        # Checked first: the error of a worker whose peer died is also a RayActorError.
        except RayTaskError as error:
            own = own_error(error)
            if isinstance(own, EngineDied):
                raise WorkerDied(f"{self.who(rank)} failed: {own}", self.role, rank) from None
            if own:
                raise own from None
            if isinstance(error.cause, RayActorError):
                workers, rank = self.known.get(error.cause.actor_id, (self, rank))
                raise workers.death_of(error.cause, rank) from error
            if death := await self.death_in_the_run():
                raise death from error
            raise RunError(f"{self.who(rank)} failed: {first_line(error.cause)}") from error
        except RayActorError as error:
            raise self.death_of(error, rank) from error

    def who(self, rank: int) -> str:
        return f"{self.role} worker {rank} on node {self.nodes[rank]}"

    async def death_in_the_run(self) -> WorkerDied | None:
        """Return the death of a worker of any role, which is why others fail whose connections it breaks; None if
        none is noticed within `DEATH_NOTICED_S`."""
        roles = {id(workers): workers for workers, _ in self.known.values()}.values()
        asked = [asyncio.create_task(workers.check_alive(rank)) for workers in roles for rank in range(len(workers))]
        try:
            # A worker that is busy, or hangs, does not answer.
            await asyncio.wait(asked, timeout=DEATH_NOTICED_S, return_when=asyncio.FIRST_EXCEPTION)
        finally:
            for each in asked:
                each.cancel()
            answers = await asyncio.gather(*asked, return_exceptions=True)
        deaths = [answer for answer in answers if isinstance(answer, WorkerDied)]
        return deaths[0] if deaths else None

    async def check_alive(self, rank: int) -> None:
        """Raise WorkerDied if the worker has died. An error is an answer too: the worker has not started."""
        try:
            await self.actors[rank].memory.remote()
        except RayTaskError:
            return
        except RayActorError as error:
            raise self.death_of(error, rank) from error

    def death_of(self, error: RayActorError, rank: int) -> WorkerDied:
        state = "cannot be reached" if isinstance(error, ActorUnavailableError) else "died"
        return WorkerDied(f"{self.who(rank)} {state}: {first_line(error)}", self.role, rank)


class Spawner:
    """Function that spawns the workers of a plan's roles on its bundles."""

    def __init__(self, plan: Plan, bundles: Bundles, clock: Clock) -> None:
        self.plan, self.bundles, self.clock = plan, bundles, clock
        self.leases = {group: Lease() for group in plan.groups}
        self.known: dict[str, tuple[Workers, int]] = {}

    def __call__(self, role: str, actor_class: type, *arguments: Any, restarts: int = 0) -> Workers:
        """`arguments`, `restarts`: see `Workers`."""
        group = self.plan.group_of(role)
        place = (group, self.bundles[group], self.leases[group])
        plan = self.plan.role(role)
        return Workers(plan, actor_class, *place, self.clock, self.known, *arguments, restarts=restarts)


async def unless_one_fails(work: Awaitable[T], others: Sequence[asyncio.Task[None]]) -> T:
    """Return the result of `work`; raise the error of one of `others` if it comes first."""
    task = asyncio.ensure_future(work)
    try:
        while not task.done():
            running = [other for other in others if not other.done()]
            await asyncio.wait([task, *running], return_when=asyncio.FIRST_COMPLETED)
            for other in running:
                if other.done():
                    other.result()
        return task.result()
    finally:
        task.cancel()


async def exhaust(stream: AsyncIterator[Any]) -> None:
    async for _ in stream:
        pass


def own_error(error: BaseException) -> RunError | InputError | None:
    """Return the error of this project that a worker raised, which ends the run, since a retry cannot help.

    None if the worker failed otherwise: its process died, or a library raised an error.
    """
    cause = getattr(error, "cause", None) or error
    return cause if isinstance(cause, RunError | InputError) else None


def first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0] if lines else 'no message'}"

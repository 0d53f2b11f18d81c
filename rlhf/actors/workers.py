"""A role's Ray actors: spawned together, called together, failing together."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any, TypeVar

import ray
from ray.exceptions import RayActorError, RayTaskError
from ray.util.placement_group import PlacementGroup
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from rlhf.actors.plan import RolePlan
from rlhf.train.clock import BusyClock
from rlhf.train.online import RoleUse
from rlhf.types import InputError, Reference, RunError

T = TypeVar("T")
STREAM_AHEAD = 2
"""Items a worker's generator may run ahead of who consumes them: of weight buckets, one is loaded while the next is
gathered."""


class Workers:
    """The actors of one role, in the order of their ranks."""

    def __init__(self, plan: RolePlan, actor_class: type, bundles: PlacementGroup) -> None:
        self.role = plan.role
        # A restarted actor would come back empty: what to do about a dead one is for the run to decide.
        remote_class = ray.remote(num_cpus=1, num_gpus=plan.accelerators_per_worker, max_restarts=0)(actor_class)
        self.actors = [
            remote_class.options(
                scheduling_strategy=PlacementGroupSchedulingStrategy(bundles, placement_group_bundle_index=index),
                name=f"{plan.role}-{index}",
            ).remote()
            for index in range(plan.num_workers)
        ]
        self.busy = BusyClock(plan.num_workers)

    def __len__(self) -> int:
        return len(self.actors)

    async def each(self, call: Callable[[int, Any], Awaitable[T]]) -> list[T]:
        """`call(rank, actor)` for all at once. The first that fails ends the others' wait."""
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [
                    group.create_task(self.guarded(rank, call(rank, actor))) for rank, actor in enumerate(self.actors)
                ]
        except* (RunError, InputError) as errors:
            raise most_telling(errors.exceptions) from None
        return [task.result() for task in tasks]

    async def stream(self, method: str, *arguments: Any) -> AsyncIterator[Reference]:
        """What rank 0's generator yields, as references, while every rank runs it."""
        streams = [
            getattr(actor, method)
            .options(num_returns="streaming", _generator_backpressure_num_objects=STREAM_AHEAD)
            .remote(*arguments)
            for actor in self.actors
        ]
        others = [asyncio.create_task(self.guarded(i, exhaust(s))) for i, s in enumerate(streams) if i]
        first = aiter(streams[0])
        while (reference := await self.guarded(0, anext(first, None))) is not None:
            yield reference
        await asyncio.gather(*others)

    async def use(self) -> RoleUse:
        """What the workers used since this was last asked. An actor class answers `memory()`, in bytes."""
        busy = self.busy.take()
        return RoleUse(busy=busy, memory_bytes=max(await self.each(lambda _, actor: actor.memory.remote())))

    async def guarded(self, rank: int, result: Awaitable[T]) -> T:
        """The result, or an error that says which worker failed."""
        try:
            with self.busy(rank):
                return await result
        except RayActorError as error:
            raise WorkerDied(f"{self.role} worker {rank} died: {first_line(error)}; resume the run") from error
        except RayTaskError as error:
            if isinstance(error.cause, RunError | InputError):
                raise error.cause from None
            raise RunError(f"{self.role} worker {rank} failed: {first_line(error.cause)}") from error


async def exhaust(stream: AsyncIterator[Any]) -> None:
    async for _ in stream:
        pass


class WorkerDied(RunError):
    """A process is gone; what its peers then say of broken connections is only a consequence."""


def most_telling(errors: Sequence[BaseException]) -> BaseException:
    """Of errors that happened together, the death that caused the others, else the first."""
    return next((error for error in errors if isinstance(error, WorkerDied)), errors[0])


def first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0] if lines else 'no message'}"

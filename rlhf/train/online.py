"""The online loop, the same for synchronous and asynchronous training. Independent of Ray and of the algorithm.

Order of calls; data that stays in the object store and is passed by reference is marked with *:

    fit
     |-> weight_sync.push(policy, samplers)       -> version    the engines get the first weights
     |-> stream.admit(version)                                  prompts go to the engines
     |-> begin(next_step)                         -> bool       validation of the first weights; True ends the training
     '-> each training step:
          |-> stream.groups()                     -> groups     rollouts*, and scalars such as scores
          |-> samplers.expect_weights()                         engines that share accelerators drop the old weights
          |-> step(groups)
          |    |-> pack(groups)                   -> batch      advantages, minibatches, packs of rollouts*
          |    |-> each column source: compute_columns(batch)   -> columns*: old_logprobs, ref_logprobs,
          |    |                                                 teacher_logprobs, values
          |    |-> policy.assign_credit(batch)    -> batch      columns* of advantages per token, statistics
          |    |-> each learner: update(batch)    -> stats      policy and critic, concurrently
          |    |-> weight_sync.push(policy, samplers)           -> version
          |    '-> stream.admit(version)                        the next prompts go to the engines
          |-> adapt(stats, groups)                              controller of the KL coefficient
          '-> each callback: on_step(report)      -> bool       log, save, validate; True ends the training
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from operator import attrgetter
from typing import Any, Protocol

from rlhf.algorithms.base import Algorithm
from rlhf.train.batching import Packing, RowGroup, deal
from rlhf.train.clock import Clock
from rlhf.train.failover import Restarts
from rlhf.train.report import Callback, RoleUse, StepReport
from rlhf.train.stats import Stats, merge
from rlhf.train.stop import Stop
from rlhf.train.stream import RolloutStream
from rlhf.train.together import together
from rlhf.types import Batch, EpisodeInfo, Group, InputError, Reference, Row, RunError


class ColumnSource(Protocol):
    async def compute_columns(self, batch: Batch) -> Mapping[str, Sequence[Reference]]:
        """Columns of a batch: one reference per pack."""


class LearningRole(Protocol):
    async def update(self, batch: Batch) -> Stats: ...


class Policy(ColumnSource, LearningRole, Protocol):
    async def assign_credit(self, batch: Batch) -> tuple[Batch, Stats]: ...


class WeightSync(Protocol):
    async def push(self, policy: Any, samplers: Any) -> int:
        """Give the engines the policy's weights; returns their version."""

    async def catch_up(self, policy: Any, samplers: Any, rank: int) -> None:
        """Give an engine that was started again the current version, if it has not got it by a push."""


class WatchedWorkers(Protocol):
    async def use(self) -> RoleUse: ...


@dataclass(kw_only=True, slots=True)
class TrainConfig:
    """Length and portions of a training."""

    num_steps: int = 100
    """Training steps: each samples, rewards and updates once."""
    num_minibatches: int = 1
    """Optimiser steps per epoch over a training step's rollouts, which are split by tokens."""
    num_epochs: int = 1
    """Passes over a training step's rollouts."""
    max_skipped_steps: int = 3
    """Training steps in a row whose every update was skipped, its gradient not finite, before the run stops."""

    def __post_init__(self) -> None:
        for name in ("num_steps", "num_minibatches", "num_epochs", "max_skipped_steps"):
            if getattr(self, name) < 1:
                raise InputError(f"train.{name}={getattr(self, name)}: give at least 1")

    @property
    def updates_per_step(self) -> int:
        return self.num_minibatches * self.num_epochs


def advantages_of(algorithm: Algorithm, group: Group) -> list[float]:
    """Return one finite number per survivor. Raises RunError if the algorithm gives something else, or raises."""
    name = f"{type(algorithm).__name__}.group_advantages"
    try:
        advantages = list(algorithm.group_advantages(group))
        fit = len(advantages) == len(group.survivors) and all(map(math.isfinite, advantages))
    except Exception as error:
        raise RunError(
            f"{name} raises {type(error).__name__}: {error} for {len(group.survivors)} rollouts of prompt "
            f"{group.prompt.id} that have a reward: let it return a list of numbers, and resume the run"
        ) from error
    if not fit:
        raise RunError(
            f"{name} gives {advantages} for {len(group.survivors)} rollouts of "
            f"prompt {group.prompt.id} that have a reward: let it return one finite number for each, in their order, "
            "and resume the run"
        )
    return advantages


@dataclass(slots=True, kw_only=True)
class OnlineTrainer:
    """The roles of a run and the order in which they work."""

    config: TrainConfig
    packing: Packing
    seed: int
    algorithm: Algorithm
    stream: RolloutStream
    policy: Policy
    column_sources: Sequence[ColumnSource]
    learners: Sequence[LearningRole]
    samplers: Any
    weight_sync: WeightSync
    clock: Clock
    workers: Mapping[str, WatchedWorkers]
    """The workers of each role, to see what they use."""
    restarts: Restarts
    """Restarts of workers that died, for the metrics."""
    callbacks: Sequence[Callback]
    stop: Stop
    begin: Callable[[int], Awaitable[bool]] | None = None
    """Called with the number of steps taken once the engines have the first weights, as a validation before training
    needs them. None: nothing is to do."""
    next_step: int = 0
    skipped_steps: int = field(default=0, init=False)
    at_rest: asyncio.Lock = field(default_factory=asyncio.Lock, init=False)
    """Held while the policy's weights change and are pushed."""

    async def fit(self) -> None:
        """Train. Raises Stopped between two steps; what was sampled of the next one is abandoned."""
        async with self.at_rest:
            self.stream.admit(await self.weight_sync.push(self.policy, self.samplers))
        # The start belongs to no step.
        self.clock.take()
        await self.use()
        ended = self.begin is not None and await self.begin(self.next_step)
        while not ended and self.next_step < self.config.num_steps:
            with self.clock("step"):
                with self.clock("rollout"):
                    groups = await self.stop.before(self.stream.groups())
                async with self.at_rest:
                    await self.samplers.expect_weights()
                    stats = await self.step(groups)
            self.stop_if_stuck(stats)
            self.adapt(stats, groups)
            report = StepReport(
                step=self.next_step,
                groups=groups,
                rejected=self.stream.rejected,
                stats=stats,
                seconds=self.clock.take(),
                use=await self.use(),
                notes={
                    **self.clock.take_figures(),
                    **self.stream.figures(),
                    **self.restarts.figures(self.workers),
                    **await self.samplers.take_figures(),
                },
            )
            self.next_step += 1
            ended = any([await callback.on_step(report) for callback in self.callbacks])
        await self.stream.close()

    async def step(self, groups: Sequence[Group]) -> Stats:
        batch = self.pack(groups)
        batch = batch.with_columns(await together(*(source.compute_columns(batch) for source in self.column_sources)))
        batch, stats = await self.policy.assign_credit(batch)
        results = await together(*(role.update(batch) for role in self.learners))
        self.stream.admit(await self.weight_sync.push(self.policy, self.samplers))
        return merge([*results, stats])

    async def catch_up(self, rank: int) -> None:
        """Bring an engine that was started again to the current version of the weights, once they are at rest."""
        async with self.at_rest:
            await self.weight_sync.catch_up(self.policy, self.samplers, rank)

    async def use(self) -> dict[str, RoleUse]:
        uses = await together(*(workers.use() for workers in self.workers.values()))
        return dict(zip(self.workers, uses, strict=True))

    def pack(self, groups: Sequence[Group]) -> Batch:
        """Survivors that are trained on, as a batch: references and scalars."""
        return deal(
            [row_group(group, advantages_of(self.algorithm, group), self.algorithm.trains) for group in groups],
            step=self.next_step,
            num_minibatches=self.config.num_minibatches,
            num_epochs=self.config.num_epochs,
            packing=self.packing,
            seed=self.seed,
        )

    def adapt(self, stats: Stats, groups: Sequence[Group]) -> None:
        """Let the KL controller see the step."""
        stats.add("kl_coef", self.algorithm.kl_coef, 1.0)
        self.algorithm.adapt(stats.values().get("kl"), sum(len(group.infos) for group in groups))

    def stop_if_stuck(self, stats: Stats) -> None:
        # While the critic learns alone the policy has no update to skip.
        self.skipped_steps = self.skipped_steps + 1 if stats.values().get("skipped_updates") == 1.0 else 0
        if self.skipped_steps >= self.config.max_skipped_steps:
            raise RunError(
                f"{self.skipped_steps} training steps in a row had gradients that are not finite, the last was step "
                f"{self.next_step}: the policy has diverged; resume from an earlier checkpoint with a lower lr"
            )


def row_group(
    group: Group,
    advantages: Sequence[float],
    trains: Callable[[EpisodeInfo], bool] = attrgetter("trained"),
) -> RowGroup:
    """The rows of a group's trained survivors, each with what `Algorithm.group_advantages` gives its episode."""
    rows: list[Row] = []
    for index, advantage in zip(group.survivors, advantages, strict=True):
        if trains(group.infos[index]):
            data_set = group.prompt.data_set
            rows += [replace(row, signal=advantage, data_set=data_set) for row in group.infos[index].rows]
    return RowGroup(rows=group.rollouts, scalars=tuple(rows))

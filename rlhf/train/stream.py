"""Prompts in flight, and their groups in the order of submission.

Order of calls:

    OnlineTrainer -> admit(version)                 after each weight sync: the engines hold new weights
      '-> fill, while fewer than (max_staleness + 1) * prompts_per_step prompts are in flight or handed over
           |-> PromptOrder.prompt_at(position)      -> epoch, prompt; with a curriculum it chooses
           |-> Algorithm.requests(prompt)           -> requests, one per rollout
           '-> GroupSource.collect(prompt, epoch, requests)  -> group, a task at the end of in_flight;
                                                    an actor next to its engine samples and scores the rollouts
    OnlineTrainer -> groups()                       -> groups, once prompts_per_step of them are admitted
      |-> await the oldest task of in_flight        -> group
      |-> Curriculum.observe(position, group), if there is one
      |-> Shaping.shape(group), if there is one     -> group
      |-> Algorithm.admits(group)
      |     yes: hand it over; its slot is free after the next weight sync
      |     no:  add it to rejected, and fill its slot at once
      '-> check_quotas                              RunError for too many failures or replacements
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from rlhf.algorithms.base import Algorithm
from rlhf.data.order import PromptOrder
from rlhf.rewards.shaping import Shaping
from rlhf.train.curriculum import Curriculum
from rlhf.types import Failure, Group, InputError, Prompt, RunError, Sampling


class GroupSource(Protocol):
    """The samplers, as the stream sees them."""

    async def collect(self, prompt: Prompt, epoch: int, requests: Sequence[Sampling]) -> Group: ...


@dataclass(kw_only=True, slots=True)
class StreamConfig:
    """Number of prompts in flight, and quotas of failures."""

    prompts_per_step: int = 64
    """Prompts a training step learns from; times the group size, its rollouts."""
    max_staleness: int = 0
    """Training steps by which the policy that sampled a rollout may lag the one that learns from it. 0 is on-policy:
    sampling waits for each update."""
    max_failures_per_step: int = 32
    """Rollouts of one step that may fail (reward or environment) before the run stops."""
    max_replaced_per_step: int | None = None
    """Groups of one step that may be replaced because there is nothing to learn from them; None: 4 x prompts_per_step.
    """

    def __post_init__(self) -> None:
        if self.prompts_per_step < 1:
            raise InputError(f"stream.prompts_per_step={self.prompts_per_step}: give at least 1")
        if self.max_staleness < 0:
            raise InputError(f"stream.max_staleness={self.max_staleness}: give 0 for on-policy training, or more")

    @property
    def replacement_quota(self) -> int:
        return 4 * self.prompts_per_step if self.max_replaced_per_step is None else self.max_replaced_per_step


class RolloutStream:
    """Keeps `(max_staleness + 1) * prompts_per_step` prompts in flight; a slot is free again after a weight sync.

    Groups leave in submission order, so what a step trains on does not depend on which engine was faster. Failures and
    dynamic sampling are one mechanism: a group that is not admitted is replaced at the tail.
    """

    def __init__(
        self,
        order: PromptOrder,
        source: GroupSource,
        algorithm: Algorithm,
        config: StreamConfig,
        curriculum: Curriculum | None = None,
        shaping: Shaping | None = None,
    ) -> None:
        self.order, self.source, self.algorithm, self.config = order, source, algorithm, config
        self.curriculum, self.shaping = curriculum, shaping
        self.next_position = 0
        self.resubmitted: deque[int] = deque()
        self.in_flight: deque[tuple[int, asyncio.Task[Group]]] = deque()
        self.handed_over = 0
        self.rejected: list[Group] = []

    def admit(self, version: int) -> None:
        """The engines hold weights `version`: let the next prompts in."""
        self.version = version
        self.handed_over = 0
        self.fill()

    async def groups(self) -> list[Group]:
        """The next `prompts_per_step` admitted groups; the others they replaced are in `rejected` afterwards."""
        admitted: list[Group] = []
        self.rejected = []
        failures: list[Failure] = []
        while len(admitted) < self.config.prompts_per_step:
            position, task = self.in_flight[0]
            group = await task
            self.in_flight.popleft()
            group = self.take(position, group)
            failures += [info.score for info in group.infos if isinstance(info.score, Failure)]
            if self.algorithm.admits(group):
                admitted.append(group)
                self.handed_over += 1
            else:
                self.rejected.append(group)
                self.fill()
            self.check_quotas(failures)
        if self.shaping is not None:
            self.shaping.end_step(has_sets=len(self.order.sets) > 1)
        return admitted

    def take(self, position: int, group: Group) -> Group:
        """Return the group as the algorithm sees it, after the curriculum has."""
        if self.curriculum is not None:
            self.curriculum.observe(position, group)
        return group if self.shaping is None else self.shaping.shape(group)

    def fill(self) -> None:
        capacity = (self.config.max_staleness + 1) * self.config.prompts_per_step
        while len(self.in_flight) + self.handed_over < capacity:
            if self.resubmitted:
                position = self.resubmitted.popleft()
            else:
                position, self.next_position = self.next_position, self.next_position + 1
            epoch, prompt = (self.curriculum or self.order).prompt_at(position)
            task = asyncio.create_task(self.source.collect(prompt, epoch, self.algorithm.requests(prompt)))
            self.in_flight.append((position, task))

    def check_quotas(self, failures: Sequence[Failure]) -> None:
        if len(failures) > self.config.max_failures_per_step:
            raise RunError(
                f"{len(failures)} rollouts of this step failed, more than stream.max_failures_per_step="
                f"{self.config.max_failures_per_step}; the last one: {failures[-1].kind}: {failures[-1].message}"
            )
        if len(self.rejected) > self.config.replacement_quota:
            raise RunError(
                f"{len(self.rejected)} groups of this step held nothing to learn from, more than "
                f"stream.max_replaced_per_step={self.config.replacement_quota}; choose prompts nearer the policy's "
                "ability or raise the quota"
            )

    async def close(self) -> None:
        """Drop what is in flight."""
        for _, task in self.in_flight:
            task.cancel()
        await asyncio.gather(*(task for _, task in self.in_flight), return_exceptions=True)

    def state(self) -> dict[str, Any]:
        """Return the stream's position after a step: half-generated groups are named, to be resubmitted, never
        saved."""
        positions = [*(position for position, _ in self.in_flight), *self.resubmitted]
        return {
            "next_position": self.next_position,
            "in_flight": positions,
            **{name: part.state() for name, part in self.parts.items()},
        }

    def restore(self, state: dict[str, Any]) -> None:
        self.next_position = state["next_position"]
        self.resubmitted = deque(state["in_flight"])
        for name, part in self.parts.items():
            part.restore(state[name])

    @property
    def parts(self) -> dict[str, Curriculum | Shaping]:
        """Return the parts that keep a state of their own."""
        parts = {"curriculum": self.curriculum, "shaping": self.shaping}
        return {name: part for name, part in parts.items() if part is not None}

    def figures(self) -> dict[str, float]:
        """Return the metrics of the parts."""
        return {name: value for part in self.parts.values() for name, value in part.figures().items()}

"""Rollouts of one prompt: episodes, each scored as soon as it ends. Runs beside the engine."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import xxhash

from rlhf.environments.base import Environment, Sampler, as_rollout, unsampled
from rlhf.types import Failure, Prompt, Rollout, RolloutInfo, RunError, Sampling, Score


class Rewards(Protocol):
    async def score(self, prompt: Prompt, rollout: Rollout) -> Score | Failure: ...


class GroupJudge(Protocol):
    async def judge(self, prompt: Prompt, rollouts: Sequence[Rollout]) -> None:
        """Add to the scores of a group once all its episodes have ended."""


def rollout_seed(run_seed: int, prompt_id: str, epoch: int, sample: int, attempt: int) -> int:
    """A seed that follows from what the rollout is, whatever ran before it: 63 bits."""
    return xxhash.xxh3_64_intdigest(f"{run_seed}/{prompt_id}/{epoch}/{sample}/{attempt}".encode()) >> 1


@dataclass(slots=True, kw_only=True)
class RolloutCollector:
    """Samples and scores groups."""

    sampler: Sampler
    environment: Environment
    rewards: Rewards | None
    """None: the judge alone scores."""
    run_seed: int
    max_attempts: int
    """Most attempts at an episode whose environment raises."""
    judge: GroupJudge | None = None
    """A reward model. None: there is none."""

    async def collect(
        self, prompt: Prompt, epoch: int, requests: Sequence[Sampling]
    ) -> tuple[list[Rollout], list[RolloutInfo]]:
        """The group of one prompt, in the order of `requests`."""
        rollouts = await asyncio.gather(*(self.play(prompt, epoch, i, request) for i, request in enumerate(requests)))
        if self.judge is not None:
            await self.judge.judge(prompt, rollouts)
        infos = [
            describe(rollout, f"{prompt.id}/{epoch}/{i}", prompt.source, request.trained)
            for i, (rollout, request) in enumerate(zip(rollouts, requests, strict=True))
        ]
        return rollouts, infos

    async def play(self, prompt: Prompt, epoch: int, sample: int, request: Sampling) -> Rollout:
        """One episode with its score, or with the failure of its last attempt."""
        for attempt in range(self.max_attempts):
            seed = rollout_seed(self.run_seed, prompt.id, epoch, sample, attempt)
            try:
                rollout = await self.environment(prompt, self.sampler, replace(request, seed=seed))
            except RunError:  # the engine is gone: no attempt will help
                raise
            except Exception as error:  # noqa: BLE001  whatever an environment raises is its failure, not a reward
                failure = Failure(kind="environment", message=f"{type(error).__name__}: {error}")
            else:
                rollout.score = await self.rewards.score(prompt, rollout) if self.rewards else Score(value=0.0)
                return rollout
        return failed_rollout(prompt, failure)


def failed_rollout(prompt: Prompt, failure: Failure) -> Rollout:
    """An episode that never ended: its prompt alone, nothing to learn from."""
    rollout = as_rollout(prompt, unsampled((), stop="abort", text=""))
    rollout.score = failure
    return rollout


def describe(rollout: Rollout, rollout_id: str, source: str, trained: bool) -> RolloutInfo:
    """Return what the driver needs of a rollout."""
    assert rollout.score is not None
    chosen = rollout.versions[rollout.loss_mask]
    return RolloutInfo(
        id=rollout_id,
        prompt_id=rollout.prompt_id,
        source=source,
        num_tokens=len(rollout.token_ids),
        num_loss_tokens=len(chosen),
        score=rollout.score,
        stop=rollout.stop,
        versions=(int(chosen.min()), int(chosen.max())) if len(chosen) else (-1, -1),
        trained=trained,
    )

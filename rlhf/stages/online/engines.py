"""Start of engines and their reward model, for training and evaluation."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncIterator, Awaitable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

from rlhf.actors.judge_worker import JudgeOwner
from rlhf.actors.placement import Bundles
from rlhf.actors.plan import PlacementConfig
from rlhf.actors.reward_role import RewardRole
from rlhf.actors.reward_worker import RewardModelSpec, RewardModelWorker
from rlhf.actors.sampler_pool import SamplerPool
from rlhf.actors.sampler_worker import SamplerSpec, SamplerWorker
from rlhf.actors.workers import Spawner
from rlhf.lookup import with_absolute_path
from rlhf.runtimes.transport import AdapterForm
from rlhf.stages.console import CONSOLE
from rlhf.stages.online.job import Job
from rlhf.train.clock import Clock
from rlhf.train.failover import Restarts
from rlhf.train.together import together
from rlhf.types import RunError


def spawn_samplers(job: Job, spawn: Spawner, restarts: Restarts, ledger_file: Path | None = None) -> SamplerPool:
    """Spawn engines and what scores their rollouts; deaths count against `restarts`. `ledger_file`: where a judge
    accounts for its cost."""
    tell = functools.partial(CONSOLE.print, markup=False, soft_wrap=True)
    reward, spec, judge = None, reward_model_spec(job), job.config.reward.judge
    if spec is not None:
        workers = spawn("reward", RewardModelWorker, spec, restarts=job.config.failover.rollout_restarts)
        reward = RewardRole(workers, restarts, tell)
    return SamplerPool(
        spawn("sampler", SamplerWorker),
        reward,
        restarts,
        JudgeOwner(judge, ledger_file) if judge.url is not None else None,
        start_timeout_s=job.config.placement.start_timeout_s,
        tell=tell,
    )


def sampler_spec(job: Job) -> SamplerSpec:
    config = job.config
    return SamplerSpec(
        model_path=config.model,
        sampler=replace(config.sampler, engine=with_absolute_path(config.sampler.engine)),
        precision=config.backend.precision,
        banned_token_ids=job.distribution.banned_token_ids,
        stop_token_ids=job.stop_token_ids,
        environment=with_absolute_path(config.environment),
        environment_name=config.environment,
        environment_options=config.environment_options,
        reward=config.reward,
        seed=config.seed,
        lora=config.lora if config.weight_sync.adapter is AdapterForm.alone else None,
        takes_turns=job.plan.group_of("sampler").takes_turns,
        chat_template=config.chat_template,
        chat_template_kwargs=config.chat_template_kwargs,
        template_date=config.template_date,
    )


def reward_model_spec(job: Job) -> RewardModelSpec | None:
    """Return the specification of the reward model; None if the run has none."""
    reward = job.config.reward
    if reward.model is None:
        return None
    return RewardModelSpec(
        model_paths=(reward.model, *reward.ensemble),
        pessimism=reward.pessimism,
        precision=job.config.backend.precision,
        max_tokens=reward.model_max_tokens,
        template_date=job.config.template_date,
    )


@asynccontextmanager
async def engines(job: Job, bundles: Bundles) -> AsyncIterator[SamplerPool]:
    """Start the engines of a run without training, and close them at the end."""
    samplers = spawn_samplers(job, Spawner(job.plan, bundles, Clock()), Restarts(job.config.failover))
    await wait_for_start([samplers.start(sampler_spec(job))], job.config.placement)
    yield samplers
    await samplers.close()


async def wait_for_start(starts: Sequence[Awaitable[None]], placement: PlacementConfig) -> None:
    """Wait for roles that start concurrently. Raises RunError after the deadline."""
    try:
        await asyncio.wait_for(together(*starts), placement.start_timeout_s)
    except TimeoutError:
        raise RunError(
            f"the workers were not ready within placement.start_timeout_s={placement.start_timeout_s:g}; look at "
            "their logs in the Ray session folder, or raise it for a large model"
        ) from None

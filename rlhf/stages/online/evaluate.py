"""Success of a model on a recipe's prompts, sampled as in training, with engines only."""

from __future__ import annotations

import asyncio
import dataclasses

from rlhf.actors.placement import Bundles, cluster, reserved
from rlhf.actors.roles import fetch
from rlhf.config import OnlineConfig
from rlhf.stages.console import CONSOLE, show_table
from rlhf.stages.online.engines import engines
from rlhf.stages.online.job import Job, prepare
from rlhf.stages.online.success import Success, measure_success
from rlhf.stages.start import as_first_started, check_machines


def run(config: OnlineConfig) -> Success:
    config = as_first_started(config)
    job = prepare(config)
    job = dataclasses.replace(job, plan=job.plan.only("sampler", "reward"))
    with cluster(job.plan):
        check_machines(config, None)
        with reserved(job.plan, config.placement.timeout_s) as bundles:
            success = asyncio.run(evaluate(job, bundles))
    show_table("Completions", ("prompt", "completion"), success.samples)
    CONSOLE.print(f"success={success.rate:.3f}")
    return success


async def evaluate(job: Job, bundles: Bundles) -> Success:
    async with engines(job, bundles) as samplers:
        return await measure_success(samplers, fetch, job.prompts, job.sampling, job.config.success)

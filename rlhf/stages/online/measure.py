"""Success of a model on a recipe's prompts, sampled as in training, with engines only."""

from __future__ import annotations

import asyncio
import dataclasses

from rlhf.actors.placement import Bundles, cluster, reserved
from rlhf.actors.roles import fetch
from rlhf.config import OnlineConfig
from rlhf.stages.console import CONSOLE, show_table
from rlhf.stages.online.conclude import measured_on
from rlhf.stages.online.engines import engines
from rlhf.stages.online.job import Job, prepare
from rlhf.stages.online.texts import say_unmeasured
from rlhf.stages.start import as_first_started, check_machines
from rlhf.train.measure import measure
from rlhf.train.validation import Measurement


def run(config: OnlineConfig) -> Measurement:
    config = as_first_started(config)
    say_unmeasured(config)
    job = prepare(config)
    job = dataclasses.replace(job, plan=job.plan.only("sampler", "reward"))
    with cluster(job.plan):
        check_machines(config, None)
        with reserved(job.plan, config.placement.timeout_s) as bundles:
            measurement = asyncio.run(evaluate(job, bundles))
    show_table("Completions", ("prompt", "completion"), measurement.samples)
    show_table("Metrics", ("metric", "value"), [(name, f"{value:.4g}") for name, value in measurement.figures.items()])
    CONSOLE.print(f"success is measured on {measured_on(job)}", soft_wrap=True)
    CONSOLE.print(f"success={measurement.success.mean:.3f}")
    return measurement


async def evaluate(job: Job, bundles: Bundles) -> Measurement:
    async with engines(job, bundles) as samplers:
        return await measure(samplers, fetch, job.measured_prompts, job.sampling, job.config.validation)

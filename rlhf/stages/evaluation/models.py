"""Models that answer suites: engines of this project, started here."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from rlhf.actors.answer_worker import AnswerSpec, AnswerWorker
from rlhf.actors.placement import Bundles
from rlhf.actors.plan import Plan, RolePlan, make_plan
from rlhf.actors.workers import Spawner, Workers
from rlhf.evaluation.ask import Request
from rlhf.evaluation.items import Answer, ChoiceLogprob
from rlhf.evaluation_config import EvaluationConfig
from rlhf.runtimes.configs import SamplerConfig
from rlhf.stages.online.engines import wait_for_start
from rlhf.train.clock import Clock
from rlhf.types import Sampling

IN_FLIGHT = 2
"""Requests in flight at an engine, as a multiple of those it answers at once: so none of its places is empty."""


def plan_roles(config: EvaluationConfig) -> Plan:
    """Plan the engines; an endpoint takes no accelerators."""
    if config.model is None:
        return make_plan([])
    sampler = config.sampler
    width = sampler.tensor_parallel_size
    return make_plan([RolePlan(role="sampler", num_workers=sampler.num_engines, accelerators_per_worker=width)])


class EngineModel:
    """A model in engines. A request goes to the engine with the fewest."""

    def __init__(self, workers: Workers, config: SamplerConfig) -> None:
        self.workers = workers
        self.loads = [0] * len(workers)
        self.concurrency = IN_FLIGHT * config.max_concurrent_rollouts * len(workers)

    async def answer(self, request: Request) -> Answer:
        if request.continuations:
            choices = [await self.likelihood(request, each) for each in request.continuations]
            return Answer(item=request.item, sample=request.sample, choices=tuple(choices))
        sampling = Sampling(temperature=request.temperature, max_tokens=request.max_tokens, seed=request.seed)
        completion = await self.call(lambda actor: actor.generate.remote(request.messages, request.chat, sampling))
        return Answer(
            item=request.item,
            sample=request.sample,
            text=completion.text,
            stop=completion.stop,
            num_tokens=len(completion.token_ids),
        )

    async def likelihood(self, request: Request, continuation: str) -> ChoiceLogprob:
        logprob, num_tokens = await self.call(
            lambda actor: actor.likelihood.remote(request.messages, request.chat, continuation)
        )
        return ChoiceLogprob(logprob=logprob, num_tokens=num_tokens)

    async def call(self, method: Callable[[Any], Any]) -> Any:
        rank = self.loads.index(min(self.loads))
        self.loads[rank] += 1
        try:
            return await self.workers.guard(rank, method(self.workers.actors[rank]))
        finally:
            self.loads[rank] -= 1


@asynccontextmanager
async def engine_model(config: EvaluationConfig, plan: Plan, bundles: Bundles) -> AsyncIterator[EngineModel]:
    """Start the engines, and close them at the end."""
    assert config.model is not None
    spec = AnswerSpec(
        model_path=config.model,
        sampler=config.sampler,
        precision=config.backend.precision,
        chat_template=config.chat_template,
        chat_template_kwargs=config.chat_template_kwargs,
        template_date=config.template_date,
    )
    workers = Spawner(plan, bundles, Clock())("sampler", AnswerWorker)
    await wait_for_start([start(workers, spec)], config.placement)
    yield EngineModel(workers, config.sampler)
    await workers.all(lambda _, actor: actor.close.remote())


async def start(workers: Workers, spec: AnswerSpec) -> None:
    await workers.start(lambda _, actor: actor.start.remote(spec))

"""Start of the models of an online run, and their layout."""

from __future__ import annotations

import asyncio
import functools
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from rlhf.actors.frozen_role import FrozenRole
from rlhf.actors.learner_worker import LearnerSpec, LearnerWorker
from rlhf.actors.placement import Bundles
from rlhf.actors.roles import CriticRole, LearningRole, ModelRole, PolicyRole
from rlhf.actors.sampler_pool import SamplerPool
from rlhf.actors.workers import Spawner, Workers
from rlhf.models.heads import Head
from rlhf.models.lora import LoRAConfig
from rlhf.runtimes.configs import OptimizerConfig
from rlhf.stages.console import CONSOLE
from rlhf.stages.online.engines import sampler_spec, spawn_samplers, wait_for_start
from rlhf.stages.online.failover import revive
from rlhf.stages.online.job import Job
from rlhf.stages.online.teacher import with_own_rows
from rlhf.train.clock import Clock
from rlhf.train.failover import Restarts
from rlhf.train.layout import choose_layout
from rlhf.train.online import WatchedWorkers

T = TypeVar("T", bound=LearningRole)


@dataclass(frozen=True, slots=True, kw_only=True)
class Roles:
    """The models of a run, each on its workers."""

    policy: PolicyRole
    reference: ModelRole | None
    teacher: ModelRole | None
    critic: CriticRole | None
    samplers: SamplerPool
    restarts: Restarts
    """Restarts of their workers."""

    @property
    def learners(self) -> dict[str, LearningRole]:
        return {"policy": self.policy, **({"critic": self.critic} if self.critic else {})}

    @property
    def models(self) -> dict[str, ModelRole]:
        """Models that compute columns of micro-batches."""
        roles = {"policy": self.policy, "reference": self.reference, "teacher": self.teacher, "critic": self.critic}
        return {name: role for name, role in roles.items() if role is not None}

    @property
    def workers(self) -> dict[str, WatchedWorkers]:
        reward = self.samplers.reward
        return {**self.models, "sampler": self.samplers.workers, **({"reward": reward} if reward else {})}


async def start_roles(job: Job, bundles: Bundles, clock: Clock, ledger_file: Path | None = None) -> Roles:
    """Start the actors and load the models, all roles concurrently. Raises RunError after the deadline.

    `ledger_file`: where a judge accounts for its cost.
    """
    config, algorithm, spawn = job.config, job.algorithm, Spawner(job.plan, bundles, clock)
    restarts = Restarts(config.failover)

    def spec(
        model: str, optimizer: OptimizerConfig | None, lora: LoRAConfig, head: Head = Head.causal_lm
    ) -> LearnerSpec:
        return LearnerSpec(
            model_path=model,
            backend=config.backend,
            optimizer=optimizer,
            distribution=job.distribution,
            head=head,
            lora=lora,
        )

    def learning(role: type[T], workers: Workers, column: str, optimizer: OptimizerConfig) -> T:
        return role(workers, column, algorithm, optimizer, config.train.num_steps, clock)

    policy = learning(PolicyRole, spawn("policy", LearnerWorker), "old_logprobs", config.optimizer)
    starts = [policy.start(spec(config.model, config.optimizer, config.lora))]
    reference = teacher = critic = None
    again = functools.partial(revive, restarts, config.placement)
    if job.plan.has("reference"):
        reference = FrozenRole(spawn("reference", LearnerWorker), "ref_logprobs", clock, again)
        starts.append(reference.start(spec(config.model, None, LoRAConfig())))
    if job.plan.has("teacher"):
        assert config.teacher.model is not None, "plan_teacher refuses to plan it"
        teacher = FrozenRole(spawn("teacher", LearnerWorker), "teacher_logprobs", clock, again)
        frozen = spec(config.teacher.model, None, LoRAConfig())
        starts.append(teacher.start(with_own_rows(frozen, job.tokenizer, job.stop_token_ids)))
    if job.plan.has("critic"):
        policy.first_step = config.critic.warmup_steps
        critic = learning(CriticRole, spawn("critic", LearnerWorker), "values", config.critic.optimizer)
        model, settings = config.critic.model or config.model, config.critic
        starts.append(critic.start(spec(model, settings.optimizer, settings.lora, Head.value)))
    samplers = spawn_samplers(job, spawn, restarts, ledger_file)
    await wait_for_start([*starts, samplers.start(sampler_spec(job))], config.placement)
    return Roles(
        policy=policy, reference=reference, teacher=teacher, critic=critic, samplers=samplers, restarts=restarts
    )


async def lay_out(job: Job, roles: Roles) -> Job:
    """Set one layout for all models, and print why rows are padded. Return the job with the layout in its config."""
    backend, models = job.config.backend, roles.models
    layout = choose_layout(backend, {name: role.exactness for name, role in models.items()})
    for note in layout.notes:
        CONSOLE.print(note, soft_wrap=True)
    await asyncio.gather(*(role.use_layout(layout) for role in models.values()))
    return replace(job, config=replace(job.config, backend=replace(backend, packed=layout.packed)))

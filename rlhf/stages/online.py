"""Online reinforcement learning, from a configuration to a model: what `launch/ppo.py` calls."""

from __future__ import annotations

import asyncio
import functools
import random
from dataclasses import dataclass

from rlhf.actors.learner_worker import LearnerSpec, LearnerWorker
from rlhf.actors.placement import Bundles, cluster, reserved
from rlhf.actors.roles import ModelRole, PolicyRole, SamplerPool, fetch
from rlhf.actors.sampler_worker import SamplerWorker
from rlhf.actors.weight_sync import ObjectStoreSync
from rlhf.actors.workers import Workers
from rlhf.config import OnlineConfig, as_plain
from rlhf.data.prompts import PromptOrder
from rlhf.stages.dry_run import show_prompts, try_rewards
from rlhf.stages.job import Job, prepare, sampler_spec, show_arithmetic
from rlhf.stages.model_files import manifest_of, write_tokenizer
from rlhf.stages.report import CONSOLE, show_plan
from rlhf.stages.success import Success, conclude, measure_success, success_before
from rlhf.stages.tracking import metrics_log
from rlhf.train.artifact import Artifact, open_artifact
from rlhf.train.batching import packing_of
from rlhf.train.checkpoint import TRAINER, Checkpointer, read_state
from rlhf.train.clock import Clock
from rlhf.train.online import Callback, OnlineTrainer
from rlhf.train.run_folder import RunFolder, is_finished, open_run_folder
from rlhf.train.stream import RolloutStream
from rlhf.train.tracking import PLOT, MetricsLog, ProgressBar, RolloutLog, StopAtReward, plot
from rlhf.types import RunError

PANELS = {
    "reward": "reward",
    "KL to the reference (nats)": "train/kl",
    "completion length (tokens)": "completion_tokens",
    "entropy (nats)": "train/entropy",
}
PROBE_SEED = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Roles:
    """The models of a run, each on its workers."""

    policy: PolicyRole
    reference: ModelRole | None
    samplers: SamplerPool

    @property
    def workers(self) -> dict[str, Workers]:
        roles: list[ModelRole | SamplerPool] = [self.policy, self.samplers]
        roles += [self.reference] if self.reference else []
        return {role.workers.role: role.workers for role in roles}


def run(config: OnlineConfig) -> Artifact | None:
    """Train, or with `dry_run` only check. Raises InputError before Ray starts where the input is wrong."""
    job = prepare(config)
    show_arithmetic(job)
    show_plan(job.plan)
    if config.dry_run:
        show_prompts(job.tokenizer, job.prompts)
        asyncio.run(try_rewards(config.reward, job.tokenizer, job.prompts))
        return None
    with open_run_folder(config.output, as_plain(config)) as folder:
        if is_finished(folder, config.train.num_steps):
            CONSOLE.print(f"{folder.model} is there already: this run is finished.")
        else:
            with cluster(job.plan), reserved(job.plan, config.placement.timeout_s) as bundles:
                asyncio.run(train(job, folder, bundles))
        return open_artifact(folder.model)


async def train(job: Job, folder: RunFolder, bundles: Bundles) -> None:
    """Start the roles, train, and commit the final model."""
    config, clock = job.config, Clock()
    checkpoint = folder.newest_checkpoint()
    with CONSOLE.status("starting Ray actors, DeepSpeed learners and vLLM engines"), clock("start"):
        roles = await start_roles(job, bundles, clock)
    CONSOLE.print(f"{job.plan.num_workers} workers ready in {clock.take()['start']:.1f} s")
    stream = RolloutStream(PromptOrder(job.prompts, config.seed), roles.samplers, job.algorithm, config.stream)
    next_step = 0
    if checkpoint:
        await roles.policy.load(checkpoint.folder / TRAINER)
        state = read_state(checkpoint.folder)
        stream.restore(state["stream"])
        next_step = state["next_step"]
        CONSOLE.print(f"continuing from {checkpoint.folder} at step {next_step}")
    checkpointer = Checkpointer(
        config=config.checkpoint,
        folder=folder,
        policy=roles.policy,
        stream=stream,
        write_tokenizer=functools.partial(write_tokenizer, job.tokenizer, job.stop_token_ids),
        manifest=manifest_of(config, config.model),
    )
    before = await success_before(folder, functools.partial(measure, job, roles.samplers))
    rollouts = RolloutLog(folder.root, config.log.groups_per_step, fetch, next_step)
    with metrics_log(config, folder, next_step) as log, ProgressBar(config.train.num_steps, CONSOLE) as bar:
        callbacks: list[Callback] = [log, rollouts, bar, *stop_rules(config, log), checkpointer]
        trainer = assemble(job, roles, stream, clock, next_step, callbacks)
        await trainer.fit()
    after = await measure(job, roles.samplers)
    await checkpointer.save_final(trainer.next_step, {"success_before": before.rate, "success_after": after.rate})
    await roles.samplers.close()
    plot(log.history, PANELS, folder.root / PLOT)
    conclude(config, folder, before, after, trainer.next_step)


async def start_roles(job: Job, bundles: Bundles, clock: Clock) -> Roles:
    """Actors on their accelerators, models loaded, all roles side by side. Raises RunError past the deadline."""
    config = job.config

    def workers(role: str, actor_class: type) -> Workers:
        return Workers(job.plan.role(role), actor_class, bundles[role])

    policy = PolicyRole(
        workers("policy", LearnerWorker), job.algorithm, config.optimizer, config.train.num_steps, clock
    )
    reference = None
    if config.algorithm.reads_reference:
        reference = ModelRole(workers("reference", LearnerWorker), "ref_logprobs", clock)
    samplers = SamplerPool(workers("sampler", SamplerWorker))
    trained, frozen = (
        LearnerSpec(model_path=config.model, backend=config.backend, optimizer=optimizer, distribution=job.distribution)
        for optimizer in (config.optimizer, None)
    )
    starts = [
        policy.start(trained),
        samplers.start(sampler_spec(job)),
        *([reference.start(frozen)] if reference else []),
    ]
    try:
        await asyncio.wait_for(asyncio.gather(*starts), config.placement.start_timeout_s)
    except TimeoutError:
        raise RunError(
            f"the workers were not ready within placement.start_timeout_s={config.placement.start_timeout_s:g}; look "
            "at their logs in the Ray session folder, or raise it for a large model"
        ) from None
    return Roles(policy=policy, reference=reference, samplers=samplers)


def assemble(
    job: Job, roles: Roles, stream: RolloutStream, clock: Clock, next_step: int, callbacks: list[Callback]
) -> OnlineTrainer:
    """The loop with what this run scores, learns and reports."""
    config = job.config
    # With one optimiser step per batch the update's own forward is the old policy.
    scorers = [roles.policy] if config.train.updates_per_step > 1 else []
    return OnlineTrainer(
        config=config.train,
        packing=packing_of(config.backend, config.placement.policy),
        seed=config.seed,
        algorithm=job.algorithm,
        stream=stream,
        policy=roles.policy,
        scorers=[*scorers, *([roles.reference] if roles.reference else [])],
        learners=[roles.policy],
        samplers=roles.samplers,
        weight_sync=ObjectStoreSync(
            config.weight_sync, config.backend.precision, probe_sequence(job), next_step, clock
        ),
        clock=clock,
        workers=roles.workers,
        callbacks=callbacks,
        next_step=next_step,
    )


def probe_sequence(job: Job) -> list[int]:
    """Tokens that the engines' weights are probed with: arbitrary, the same for a whole run."""
    allowed = sorted(set(job.tokenizer.get_vocab().values()) - set(job.distribution.banned_token_ids))
    length = min(job.config.weight_sync.probe_tokens, job.config.sampler.context_tokens - 1)
    return random.Random(PROBE_SEED).choices(allowed, k=length)


def stop_rules(config: OnlineConfig, log: MetricsLog) -> list[Callback]:
    if config.stop_at_reward is None:
        return []
    return [StopAtReward(config.stop_at_reward, config.stop_window, log.history)]


async def measure(job: Job, samplers: SamplerPool) -> Success:
    return await measure_success(samplers, fetch, job.prompts, job.sampling, job.config.success)

"""Online reinforcement learning, from a configuration to a model, for `launch/ppo.py`."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import TypeVar

from rlhf.actors.learner_worker import LearnerSpec, LearnerWorker
from rlhf.actors.nodes import has_accelerators
from rlhf.actors.placement import Bundles, cluster, reserved
from rlhf.actors.roles import AdapterOff, CriticRole, LearningRole, ModelRole, PolicyRole, SamplerPool, fetch
from rlhf.actors.weight_sync import BucketSync
from rlhf.actors.workers import Spawner, Workers
from rlhf.config import OnlineConfig, as_plain
from rlhf.data.order import PromptOrder
from rlhf.models.heads import Head
from rlhf.models.lora import LoRAConfig
from rlhf.rewards.shaping import Shaping
from rlhf.runtimes.configs import OptimizerConfig
from rlhf.stages.console import CONSOLE, show_plan, show_special_tokens
from rlhf.stages.online.conclude import success_of
from rlhf.stages.online.dry_run import try_algorithm, try_episodes
from rlhf.stages.online.engines import reward_model_spec, sampler_spec, spawn_samplers, wait_for_start
from rlhf.stages.online.job import Job, prepare, show_arithmetic, transport_of
from rlhf.stages.online.method import method_lines
from rlhf.stages.online.results import (
    checkpointer_of,
    digests_of,
    probe_sequence,
    save_and_conclude,
    validation_of,
)
from rlhf.stages.online.texts import text_panels
from rlhf.stages.start import as_first_started, check_machines
from rlhf.stages.tracking import metrics_log
from rlhf.train.artifact import Artifact, open_artifact
from rlhf.train.batching import packing_of
from rlhf.train.checkpoint import TRAINER, read_state
from rlhf.train.clock import Clock
from rlhf.train.curriculum import Curriculum
from rlhf.train.layout import choose_layout
from rlhf.train.online import OnlineTrainer
from rlhf.train.report import Callback
from rlhf.train.rows import check_rows
from rlhf.train.run_folder import RunFolder, check_more_steps, is_finished, look_at_run_folder, open_run_folder
from rlhf.train.stop import Stop, until_stopped
from rlhf.train.stream import RolloutStream
from rlhf.train.tracking import PLOT, MetricsLog, ProgressBar, RolloutLog, StopAtReward, plot
from rlhf.types import Stopped

PANELS = {
    "reward": "reward",
    "success": "success",
    "KL to the reference (nats)": "train/kl",
    "variance the critic explains": "train/critic/explained_variance",
    "completion length (tokens)": "completion_tokens",
    "entropy (nats)": "train/entropy",
    "repeated 4-grams (share)": "repetition",
}
T = TypeVar("T", bound=LearningRole)


@dataclass(frozen=True, slots=True, kw_only=True)
class Roles:
    """The models of a run, each on its workers."""

    policy: PolicyRole
    reference: ModelRole | None
    critic: CriticRole | None
    samplers: SamplerPool

    @property
    def learners(self) -> dict[str, LearningRole]:
        return {"policy": self.policy, **({"critic": self.critic} if self.critic else {})}

    @property
    def models(self) -> dict[str, ModelRole]:
        """Models that compute columns of micro-batches."""
        roles = {"policy": self.policy, "reference": self.reference, "critic": self.critic}
        return {name: role for name, role in roles.items() if role is not None}

    @property
    def workers(self) -> dict[str, Workers]:
        roles = (self.policy, self.reference, self.critic, self.samplers)
        workers = [role.workers for role in roles if role is not None]
        return {each.role: each for each in [*workers, *([self.samplers.reward] if self.samplers.reward else [])]}


def run(config: OnlineConfig) -> Artifact | None:
    """Train, or with `dry_run` only check. Raises InputError before Ray starts if the input is wrong."""
    config = as_first_started(config)
    job = prepare(config)
    show_arithmetic(job)
    show_special_tokens(job.tokenizer, job.stop_token_ids, job.distribution.banned_token_ids)
    CONSOLE.print(*method_lines(config), sep="\n", markup=False, soft_wrap=True)
    show_plan(job.plan)
    try_algorithm(job)
    asyncio.run(try_episodes(job, show=config.dry_run))
    if config.dry_run:
        is_done(job, look_at_run_folder(config.output, as_plain(config)))
        return None
    with open_run_folder(config.output, as_plain(config)) as folder:
        if not is_done(job, folder):
            with cluster(job.plan):
                check_machines(config, folder.root)
                with reserved(job.plan, config.placement.timeout_s) as bundles:
                    run_until_stopped(job, folder, bundles)
        return open_artifact(folder.model)


def is_done(job: Job, folder: RunFolder) -> bool:
    """Return whether the run has ended, and show its end if so. Raises InputError if it cannot continue with this
    configuration."""
    num_steps = job.config.train.num_steps
    check_rows(folder, digests_of(job), {"prompts": "data.path", "held_out": "validation"})
    check_more_steps(folder, num_steps)
    finished = is_finished(folder, num_steps)
    if finished:
        CONSOLE.print(f"{folder.model} exists already: this run is finished.")
    return finished


def run_until_stopped(job: Job, folder: RunFolder, bundles: Bundles) -> None:
    """Train; raise Stopped with how to continue if a stop was requested."""
    try:
        tell = functools.partial(CONSOLE.print, soft_wrap=True)
        asyncio.run(until_stopped(functools.partial(train, job, folder, bundles), tell))
    except Stopped as stopped:
        raise Stopped(stopped.signal, folder.how_to_continue()) from None


async def train(job: Job, folder: RunFolder, bundles: Bundles, stop: Stop) -> None:
    """Start the roles, train, and commit the final model. Raises Stopped after the learnt steps are saved."""
    config, clock = job.config, Clock()
    job = with_transport(job)
    with CONSOLE.status("starting Ray actors, DeepSpeed learners and engines"), clock("start"):
        roles, checkpoint = await stop.before(start_and_verify(job, folder, bundles, clock))
    CONSOLE.print(f"{job.plan.num_workers} workers ready in {clock.take()['start']:.1f} s")
    job = await lay_out(job, roles)
    stream = stream_of(job, roles.samplers)
    next_step = await resume(job, roles, stream, checkpoint) if checkpoint else 0
    folder.drop_bests_after(next_step)
    checkpointer = checkpointer_of(job, folder, roles.learners, stream)
    rollouts = RolloutLog(folder.root, config.log.groups_per_step, fetch, job.tokenizer.decode, next_step)
    try:
        with metrics_log(config, folder, next_step) as log, ProgressBar(config.train.num_steps, CONSOLE) as bar:
            validation = validation_of(job, roles.policy, roles.samplers, checkpointer, log, stop, next_step)
            callbacks: list[Callback] = [log, rollouts, bar, *stop_rules(config, log), checkpointer, validation]
            trainer = assemble(job, roles, stream, clock, next_step, callbacks, stop, begin=validation.begin)
            await trainer.fit()
            after = await validation.after(trainer.next_step)
    except Stopped:
        await stream.close()
        await checkpointer.save_unsaved()
        await roles.samplers.close()
        raise
    await save_and_conclude(job, checkpointer, success_of(after), trainer.next_step)
    await roles.samplers.close()
    plot(log.history, {**PANELS, **text_panels(config)}, folder.root / PLOT)


def stream_of(job: Job, samplers: SamplerPool) -> RolloutStream:
    config, reward = job.config, job.config.reward
    order = PromptOrder(job.prompts, config.seed, config.data.weights)
    curriculum = Curriculum(order, config.curriculum) if config.curriculum.is_on else None
    is_shaped = reward.shaping.is_on or bool(reward.constraints)
    shaping = Shaping(reward.shaping, reward.constraints, config.sampling.max_tokens) if is_shaped else None
    return RolloutStream(order, samplers, job.algorithm, config.stream, curriculum, shaping)


async def resume(job: Job, roles: Roles, stream: RolloutStream, checkpoint: Artifact) -> int:
    """Load a checkpoint into the roles, the stream and the algorithm. Return the next step."""
    for name, role in roles.learners.items():
        await role.load(checkpoint.folder / TRAINER / name)
    state = read_state(checkpoint.folder)
    stream.restore(state["stream"])
    job.algorithm.restore(state["algorithm"])
    CONSOLE.print(f"continuing from {checkpoint.folder} at step {state['next_step']}", soft_wrap=True)
    return state["next_step"]


async def start_and_verify(
    job: Job, folder: RunFolder, bundles: Bundles, clock: Clock
) -> tuple[Roles, Artifact | None]:
    """Return the roles, and the checkpoint to continue from, which is verified while models load."""
    return await asyncio.gather(start_roles(job, bundles, clock), asyncio.to_thread(folder.newest_checkpoint))


async def start_roles(job: Job, bundles: Bundles, clock: Clock) -> Roles:
    """Start the actors and load the models, all roles concurrently. Raises RunError after the deadline."""
    config, algorithm, spawn = job.config, job.algorithm, Spawner(job.plan, bundles, clock)

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
    reference = critic = None
    if job.plan.has("reference"):
        reference = ModelRole(spawn("reference", LearnerWorker), "ref_logprobs", clock)
        starts.append(reference.start(spec(config.model, None, LoRAConfig())))
    if job.plan.has("critic"):
        policy.first_step = config.critic.warmup_steps
        critic = learning(CriticRole, spawn("critic", LearnerWorker), "values", config.critic.optimizer)
        model, settings = config.critic.model or config.model, config.critic
        starts.append(critic.start(spec(model, settings.optimizer, settings.lora, Head.value)))
    samplers = spawn_samplers(job, spawn)
    await wait_for_start([*starts, samplers.start(sampler_spec(job), reward_model_spec(job))], config.placement)
    return Roles(policy=policy, reference=reference, critic=critic, samplers=samplers)


async def lay_out(job: Job, roles: Roles) -> Job:
    """Set one layout for all models, and print why rows are padded. Return the job with the layout in its config."""
    backend, models = job.config.backend, roles.models
    layout = choose_layout(backend, {name: role.exactness for name, role in models.items()})
    for note in layout.notes:
        CONSOLE.print(note, soft_wrap=True)
    await asyncio.gather(*(role.use_layout(layout) for role in models.values()))
    return replace(job, config=replace(job.config, backend=replace(backend, packed=layout.packed)))


def with_transport(job: Job) -> Job:
    """Choose and print the transport of weights to the engines. Return the job with the transport in its config."""
    config = job.config
    transport = transport_of(config, job.plan, on_gpus=has_accelerators())
    CONSOLE.print(f"weights reach the engines by {transport}")
    return replace(job, config=replace(config, weight_sync=replace(config.weight_sync, transport=transport)))


def assemble(
    job: Job,
    roles: Roles,
    stream: RolloutStream,
    clock: Clock,
    next_step: int,
    callbacks: list[Callback],
    stop: Stop,
    begin: Callable[[int], Awaitable[bool]] | None = None,
) -> OnlineTrainer:
    """Return the loop with the roles and the callbacks of this run. Transport and layout must be chosen before."""
    config = job.config
    # With one optimiser step per batch the update's own forward is the old policy.
    reads_old = config.train.updates_per_step > 1 or config.algorithm.reads_old_logprobs
    within = config.lora.enabled and config.algorithm.reads_reference
    reference = AdapterOff(roles.policy) if within else roles.reference
    sources = (roles.policy if reads_old else None, reference, roles.critic)
    transport = config.weight_sync.transport
    assert transport is not None, "with_transport comes first"
    return OnlineTrainer(
        config=config.train,
        packing=packing_of(config.backend, config.placement.policy),
        seed=config.seed,
        algorithm=job.algorithm,
        stream=stream,
        policy=roles.policy,
        column_sources=[role for role in sources if role is not None],
        learners=list(roles.learners.values()),
        samplers=roles.samplers,
        weight_sync=BucketSync(
            config.weight_sync, transport, config.backend.precision, probe_sequence(job), next_step, clock
        ),
        clock=clock,
        workers=roles.workers,
        callbacks=callbacks,
        stop=stop,
        begin=begin,
        next_step=next_step,
    )


def stop_rules(config: OnlineConfig, log: MetricsLog) -> list[Callback]:
    if config.stop_at_reward is None:
        return []
    return [StopAtReward(config.stop_at_reward, config.stop_window, log.history)]

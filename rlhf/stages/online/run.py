"""Online reinforcement learning, from a configuration to a model, for `launch/ppo.py`."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace

from rlhf.actors.nodes import has_accelerators
from rlhf.actors.placement import Bundles, cluster, reserved
from rlhf.actors.roles import AdapterOff, fetch
from rlhf.actors.sampler_pool import SamplerPool
from rlhf.actors.weight_sync import BucketSync
from rlhf.config import OnlineConfig, as_plain
from rlhf.data.order import PromptOrder
from rlhf.rewards.shaping import Shaping
from rlhf.stages.console import CONSOLE, show_plan, show_special_tokens
from rlhf.stages.online.conclude import success_of
from rlhf.stages.online.dry_run import try_algorithm, try_episodes
from rlhf.stages.online.failover import say, start_again
from rlhf.stages.online.job import Job, prepare, show_arithmetic, transport_of
from rlhf.stages.online.method import method_lines
from rlhf.stages.online.results import (
    checkpointer_of,
    digests_of,
    probe_sequence,
    save_and_conclude,
    validation_of,
)
from rlhf.stages.online.roles import Roles, lay_out, start_roles
from rlhf.stages.online.texts import text_panels
from rlhf.stages.start import as_first_started, check_machines
from rlhf.stages.tracking import metrics_log
from rlhf.train.artifact import Artifact, open_artifact
from rlhf.train.batching import packing_of
from rlhf.train.checkpoint import TRAINER, read_state
from rlhf.train.clock import Clock
from rlhf.train.curriculum import Curriculum
from rlhf.train.failover import WorkerDied, continued
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
    "KL to the teacher (nats)": "train/teacher_kl_k1",
    "variance the critic explains": "train/critic/explained_variance",
    "completion length (tokens)": "completion_tokens",
    "entropy (nats)": "train/entropy",
    "repeated 4-grams (share)": "repetition",
}


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
    """Start the roles, train, and commit the final model; after the death of a learner continue within the run. Raises
    Stopped after the learnt steps are saved, WorkerDied if no restart is left."""
    clock = Clock()
    job = with_transport(job)
    with CONSOLE.status("starting Ray actors, DeepSpeed learners and engines"), clock("start"):
        roles, checkpoint = await stop.before(start_and_verify(job, folder, bundles, clock))
    CONSOLE.print(f"{job.plan.num_workers} workers ready in {clock.take()['start']:.1f} s")
    job = await lay_out(job, roles)
    at_first = dict(job.algorithm.state())

    async def train_from(checkpoint: Artifact | None) -> None:
        await attempt(job, folder, roles, checkpoint, at_first, clock, stop)

    async def rebuild(death: WorkerDied) -> Artifact | None:
        return await stop.before(recover(job, folder, roles, death))

    try:
        await continued(train_from, rebuild, checkpoint, roles.restarts, roles.learners)
    except Stopped:
        await roles.samplers.close()
        raise


async def attempt(
    job: Job,
    folder: RunFolder,
    roles: Roles,
    checkpoint: Artifact | None,
    at_first: Mapping[str, float],
    clock: Clock,
    stop: Stop,
) -> None:
    """Train from a checkpoint, or from the beginning with the algorithm's state `at_first`, to the final model.

    Raises WorkerDied if a worker dies that this attempt cannot continue without; nothing of it runs on then.
    """
    config, stream = job.config, stream_of(job, roles.samplers)
    job.algorithm.restore(at_first)
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
    except BaseException as error:
        await stream.close()
        if isinstance(error, Stopped):
            await checkpointer.save_unsaved()
        raise
    await save_and_conclude(job, checkpointer, success_of(after), trainer.next_step)
    await roles.samplers.close()
    plot(log.history, {**PANELS, **text_panels(config)}, folder.root / PLOT)


async def recover(job: Job, folder: RunFolder, roles: Roles, death: WorkerDied) -> Artifact | None:
    """Start the learners again after the death of one: another may be in the middle of an update. Return the checkpoint
    from which the run continues; None: it begins again."""
    checkpoint = await asyncio.to_thread(folder.newest_checkpoint)
    seconds = await start_again(list(roles.learners.values()), job.config.placement)
    place = f"the run continues from {checkpoint.folder}" if checkpoint else "the run begins again"
    say(death, f"started again in {seconds:.1f} s, and {place}")
    return checkpoint


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
    start = start_roles(job, bundles, clock, folder.judge_ledger)
    return await asyncio.gather(start, asyncio.to_thread(folder.newest_checkpoint))


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
    sources = (roles.policy if reads_old else None, reference, roles.teacher, roles.critic)
    transport = config.weight_sync.transport
    assert transport is not None, "with_transport comes first"
    trainer = OnlineTrainer(
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
        restarts=roles.restarts,
        callbacks=callbacks,
        stop=stop,
        begin=begin,
        next_step=next_step,
    )
    roles.samplers.follow(trainer.catch_up)
    return trainer


def stop_rules(config: OnlineConfig, log: MetricsLog) -> list[Callback]:
    if config.stop_at_reward is None:
        return []
    return [StopAtReward(config.stop_at_reward, config.stop_window, log.history)]

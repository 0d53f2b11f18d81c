"""Checkpoints, validation and final model of a run, put together from its configuration."""

from __future__ import annotations

import functools
import itertools
from asyncio import gather
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import replace
from typing import Any

import ray

from rlhf.actors.roles import LearningRole, PolicyRole, fetch
from rlhf.actors.sampler_pool import SamplerPool
from rlhf.config import OnlineConfig
from rlhf.stages.console import CONSOLE
from rlhf.stages.model_files import manifest_of, write_tokenizer
from rlhf.stages.online.conclude import Success, conclude, success_before, success_of_best
from rlhf.stages.online.job import Job
from rlhf.train.batching import packing_of
from rlhf.train.best import BestModel
from rlhf.train.checkpoint import Checkpointer, Final
from rlhf.train.measure import measure
from rlhf.train.offline import Corpus
from rlhf.train.perplexity import perplexities, text_batch
from rlhf.train.rows import ROWS, Digest, digest_of_corpus, digest_of_prompts
from rlhf.train.run_folder import RunFolder
from rlhf.train.stop import Stop
from rlhf.train.stream import RolloutStream
from rlhf.train.tracking import SAMPLES, MetricsLog, truncate_to
from rlhf.train.validation import Measurement, Validation


def digests_of(job: Job) -> dict[str, Digest]:
    """Return the digests of the prompts and of held-out texts, so that changed ones are detected."""
    parts = {"prompts": job.prompts, "held_out": job.held_out.prompts}
    texts = {f"validation.texts.{name}": digest_of_corpus(Corpus.of(units)) for name, units in job.texts.items()}
    return {**{name: digest_of_prompts(prompts) for name, prompts in parts.items() if prompts}, **texts}


def probe_sequence(job: Job) -> list[int]:
    """Return the tokens that probe the engines' weights: the first prompts end to end, the same for a whole run.

    The text is real: on random tokens rounding changes logprobs several times as much.
    """
    length = min(job.config.weight_sync.probe_tokens, job.config.sampler.context_tokens - 1)
    tokens = itertools.chain.from_iterable(prompt.token_ids for prompt in itertools.cycle(job.prompts))
    return list(itertools.islice(tokens, length))


def checkpointer_of(
    job: Job, folder: RunFolder, learners: Mapping[str, LearningRole], stream: RolloutStream
) -> Checkpointer:
    return Checkpointer(
        config=job.config.checkpoint,
        folder=folder,
        learners=learners,
        algorithm=job.algorithm,
        stream=stream,
        write_tokenizer=functools.partial(write_tokenizer, job.tokenizer, job.stop_token_ids),
        manifest={**manifest_of(job.config, job.config.model), ROWS: digests_of(job)},
        probe=probe_sequence(job),
    )


def best_of(config: OnlineConfig, folder: RunFolder, checkpointer: Checkpointer) -> BestModel | None:
    """Return the keeper of the best model; None if the run keeps none."""
    keep = config.checkpoint
    if keep.keep_best is None:
        return None
    return BestModel(figure=keep.keep_best, direction=keep.best_is, folder=folder, save=checkpointer.save_best)


def measurement_of(
    job: Job, policy: PolicyRole, samplers: SamplerPool
) -> Callable[[], Coroutine[Any, Any, Measurement]]:
    """Return the measurement of the policy: episodes on the engines, and texts on its own workers meanwhile."""
    config = job.config
    packing = packing_of(config.backend, config.placement.policy)
    texts = {name: text_batch(units, packing, ray.put) for name, units in job.texts.items()}

    async def measured() -> Measurement:
        episodes = measure(samplers, fetch, job.measured_prompts, job.sampling, config.validation)
        measurement, figures = await gather(episodes, perplexities(policy, texts))
        return replace(measurement, texts=figures)

    return measured


def validation_of(
    job: Job,
    policy: PolicyRole,
    samplers: SamplerPool,
    checkpointer: Checkpointer,
    log: MetricsLog,
    stop: Stop,
    next_step: int,
) -> Validation:
    folder, config = checkpointer.folder, job.config
    truncate_to(folder.root / SAMPLES, next_step)
    return Validation(
        config=config.validation,
        measure=measurement_of(job, policy, samplers),
        folder=folder,
        log=log,
        stop=stop,
        tell=functools.partial(CONSOLE.print, soft_wrap=True, markup=False, highlight=False),
        best=best_of(config, folder, checkpointer),
    )


async def save_and_conclude(job: Job, checkpointer: Checkpointer, after: Success, num_steps: int) -> None:
    """Commit the final model, that of the last step or the best one, and print the end of the run."""
    folder = checkpointer.folder
    before, keeper, chosen = success_before(folder), best_of(job.config, folder, checkpointer), None
    if keeper is not None and (best := keeper.newest()) is not None:
        place, value = folder.best(best["step"]), best["metrics"][keeper.figure]
        CONSOLE.print(f"best: {place}, {keeper.figure}={value:.4g}", soft_wrap=True)
        if job.config.checkpoint.final is Final.best:
            chosen, after = place, success_of_best(folder, best)
    elif job.config.checkpoint.final is Final.best:
        CONSOLE.print("checkpoint.keep_best was never finite: the model is that of the last step", soft_wrap=True)
    metrics = {"success_before": before.rate, "success_after": after.rate}
    await checkpointer.save_final(num_steps, metrics, chosen)
    conclude(job, before, after, folder, num_steps)

"""Supervised fine-tuning, from a configuration to a model: what `launch/sft.py` calls."""

from __future__ import annotations

import asyncio
import functools
from pathlib import Path

import ray

from rlhf.actors.learner_worker import FitSpec, LearnerSpec, LearnerWorker
from rlhf.actors.nodes import check_nodes
from rlhf.actors.placement import cluster, reserved
from rlhf.actors.plan import RolePlan, make_plan
from rlhf.actors.roles import ModelRole, fetch
from rlhf.actors.workers import Spawner, Workers
from rlhf.algorithms.sft import SFTConfig
from rlhf.config import SFTRunConfig, as_plain
from rlhf.data.supervised import load_supervised
from rlhf.models.causal_lm import SamplingDistribution, context_length, read_model_config, refuse_experts
from rlhf.models.tokenizer import load_tokenizer, stop_token_ids
from rlhf.stages.model_files import manifest_of, write_tokenizer
from rlhf.stages.report import CONSOLE, show_loss_masks, show_plan
from rlhf.stages.tracking import metrics_log
from rlhf.train.artifact import Artifact, committing, open_artifact
from rlhf.train.batching import packing_of
from rlhf.train.clock import Clock
from rlhf.train.run_folder import RunFolder, is_finished, open_run_folder
from rlhf.train.tracking import PLOT, ProgressBar, plot
from rlhf.types import InputError, TrainingRow

NUM_SHOWN = 3
PANELS = {"loss (nats per token)": "train/loss", "gradient norm": "train/gradient_norm"}


def run(config: SFTRunConfig) -> Artifact | None:
    """Train, or with `dry_run` only check. Raises InputError before Ray starts where the input is wrong."""
    model_config = read_model_config(config.model)
    refuse_experts(config.model, model_config)
    context = context_length(model_config)
    tokenizer = load_tokenizer(config.model)
    rows = load_supervised(config.data, tokenizer, context_tokens=context)
    longest = max(row.num_tokens for row in rows)
    if longest > config.backend.max_tokens_per_microbatch:
        raise InputError(
            f"backend.max_tokens_per_microbatch={config.backend.max_tokens_per_microbatch}: the longest row has "
            f"{longest} tokens and must fit; raise it to at least that"
        )
    plan = make_plan([RolePlan(role="policy", num_workers=config.placement.policy)])
    CONSOLE.print(
        f"{len(rows)} rows of at most {longest} tokens, {config.train.rows_per_step} per optimiser step over all "
        f"ranks, {config.train.steps_over(len(rows))} optimiser steps"
    )
    show_plan(plan)
    if config.dry_run:
        show_loss_masks(tokenizer, [(row.token_ids, row.loss_mask) for row in rows[:NUM_SHOWN]])
        return None
    stop_ids = stop_token_ids(config.model, tokenizer)
    with open_run_folder(config.output, as_plain(config)) as folder:
        if is_finished(folder):
            CONSOLE.print(f"{folder.model} is there already: this run is finished.")
        else:
            with cluster(plan):
                check_nodes(folder.root, config.preflight)
                with reserved(plan, config.placement.timeout_s) as bundles:
                    workers = Spawner(plan, bundles, Clock())("policy", LearnerWorker)
                    save_beside = functools.partial(write_tokenizer, tokenizer, stop_ids)
                    asyncio.run(train(config, rows, workers, folder, save_beside))
        return open_artifact(folder.model)


async def train(
    config: SFTRunConfig,
    rows: list[TrainingRow],
    workers: Workers,
    folder: RunFolder,
    save_beside: functools.partial[None],
) -> None:
    """Load, fit, and commit the model."""
    model = ModelRole(workers, "logprobs", Clock())
    spec = LearnerSpec(
        model_path=config.model,
        backend=config.backend,
        optimizer=config.optimizer,
        distribution=SamplingDistribution(),
    )
    fit = FitSpec(
        loss=SFTConfig().build(),
        optimizer=config.optimizer,
        train=config.train,
        packing=packing_of(config.backend, len(workers)),
        seed=config.seed,
    )
    with CONSOLE.status("starting Ray actors and DeepSpeed learners"):
        await model.start(spec)
    num_steps = config.train.steps_over(len(rows))
    with metrics_log(config, folder, next_step=0) as log, ProgressBar(num_steps, CONSOLE) as bar:
        async for references in workers.stream("fit", fit, ray.put(rows)):
            (figures,) = fetch(references)
            log.write(figures)
            bar.show(int(figures["step"]), figures)
    manifest = {**manifest_of(config, config.model), "kind": "model", "step": num_steps, "metrics": log.history[-1]}
    with committing(folder.model, manifest) as staging:
        await model.save_pretrained(staging)
        save_beside(Path(staging))
    plot(log.history, PANELS, folder.root / PLOT)
    CONSOLE.print(f"model: {folder.model}", f"plot: {folder.root / PLOT}", sep="\n", soft_wrap=True)

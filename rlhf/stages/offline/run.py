"""Offline training from a job to a model, shared by SFT, reward models and the preference methods."""

from __future__ import annotations

import asyncio
import functools
import signal
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray

from rlhf.actors.placement import check_capacity, cluster
from rlhf.actors.plan import Plan, RolePlan, make_plan
from rlhf.algorithms.base import Loss
from rlhf.config import as_plain
from rlhf.data.base import Parts
from rlhf.data.quarantine import Quarantine
from rlhf.data.template_clock import fix_date
from rlhf.data.turns import control_ids
from rlhf.models.causal_lm import context_length, read_model_config, refuse_experts
from rlhf.models.chat_template import load_chat_tokenizer
from rlhf.models.heads import Head
from rlhf.models.lora import check_lora
from rlhf.models.rope import with_rope_scaling
from rlhf.models.tokenizer import completion_text, eos_token_ids, stop_token_ids
from rlhf.offline_config import OfflineConfig
from rlhf.stages.console import CONSOLE, show_left_out, show_loss_masks, show_plan, show_special_tokens, show_table
from rlhf.stages.model_files import manifest_of, write_tokenizer
from rlhf.stages.offline.rank import BEFORE_TRAINING, LAYOUT, STOP, Corpora, OfflineJob, train_on_ranks
from rlhf.stages.start import check_machines
from rlhf.train.artifact import Artifact, open_artifact
from rlhf.train.offline import Corpus
from rlhf.train.rows import ROWS, check_rows, digest_of_corpus
from rlhf.train.run_folder import RunFolder, check_more_steps, is_finished, look_at_run_folder, open_run_folder
from rlhf.train.stop import Stop, until_stopped
from rlhf.train.tracking import METRICS, PLOT, ProgressBar, Tail, plot, read_rows
from rlhf.types import InputError, Stopped, Unit

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

NUM_SHOWN = 3
HELD_OUT = "held_out"
"""Prefix of the metrics on held-out rows."""
TRAIN = "train"
"""Name of the training rows in manifests."""
MAY_CHANGE = ("train.num_epochs", "train.max_restarts")
"""Keys that may differ between an offline run and its continuation, in addition to those of every run."""
POLL_S = 0.5


def open_model(config: OfflineConfig) -> tuple[PreTrainedTokenizerBase, int]:
    """Return the tokenizer and the context, in tokens, of the model to start from."""
    model_config = read_model_config(config.model)
    refuse_experts(config.model, model_config)
    check_lora(config.lora, config.model, zero_stage=config.backend.zero_stage)
    scaled = with_rope_scaling(config.model, model_config, config.rope_scaling)
    tokenizer = load_chat_tokenizer(config.model, config.chat_template, config.chat_template_kwargs)
    fix_date(tokenizer, config.template_date)
    return tokenizer, context_length(scaled)


def load_parts(
    config: OfflineConfig, tokenizer: PreTrainedTokenizerBase, context_tokens: int
) -> tuple[Parts, Quarantine]:
    """Load the training and the held-out rows, and the quarantine with their bad rows."""
    held_out, quarantine = config.held_out, config.data.quarantine()
    parts = config.data.load_parts(
        tokenizer,
        context_tokens=context_tokens,
        quarantine=quarantine,
        held_out_fraction=held_out.fraction,
        seed=config.seed,
    )
    files = {**({HELD_OUT: held_out.path} if held_out.path else {}), **held_out.others}
    others = {
        name: config.data.at(path).load(tokenizer, context_tokens=context_tokens, quarantine=quarantine)
        for name, path in files.items()
    }
    return replace(parts, held_out={**parts.held_out, **others}), quarantine


def corpora_of(parts: Parts, corpus_of: Callable[[Sequence[Unit]], Corpus]) -> Corpora:
    return Corpora(
        train=corpus_of(parts.train), held_out={name: corpus_of(units) for name, units in parts.held_out.items()}
    )


def digests_of(corpora: Corpora) -> dict[str, dict[str, Any]]:
    """Return the digests of the parts, so that changed rows are detected."""
    return {name: digest_of_corpus(each) for name, each in {TRAIN: corpora.train, **corpora.held_out}.items()}


def prompts_to_complete(
    config: OfflineConfig, units: Sequence[Unit], tokenizer: PreTrainedTokenizerBase, stop_token_ids: Sequence[int]
) -> list[tuple[tuple[int, ...], str]]:
    """Return the first held-out prompts as token ids, each with its row's completion as text."""
    found: dict[tuple[int, ...], str] = {}
    for unit in units:
        token_ids, start = unit[0].token_ids, int(unit[0].loss_mask.argmax())
        if start > 1:
            found.setdefault(
                tuple(token_ids[:start].tolist()), completion_text(tokenizer, token_ids[start:], stop_token_ids)
            )
    return list(found.items())[: config.held_out.num_samples]


def policy_job(
    config: OfflineConfig,
    loss: Loss,
    corpora: Corpora,
    parts: Parts,
    tokenizer: PreTrainedTokenizerBase,
    panels: Mapping[str, str],
) -> OfflineJob:
    """Make a job that trains a causal language model."""
    # Documents need no chat template.
    ends = stop_token_ids if tokenizer.chat_template else eos_token_ids
    stop_ids = tuple(ends(config.model, tokenizer))
    return OfflineJob(
        config=config,
        head=Head.causal_lm,
        loss=loss,
        corpora=corpora,
        manifest={**manifest_of(config, config.model), "data": parts.figures},
        save_beside=functools.partial(write_tokenizer, tokenizer, stop_ids),
        prompts=prompts_to_complete(config, parts.held_out.get(HELD_OUT, []), tokenizer, stop_ids),
        stop_token_ids=stop_ids,
        # Prompts are shown too, without the tokens that name the speaker.
        decode=functools.partial(completion_text, tokenizer, stop_token_ids={*stop_ids, *control_ids(tokenizer)}),
        panels=panels,
    )


def run(
    job: OfflineJob,
    tokenizer: PreTrainedTokenizerBase,
    quarantine: Quarantine,
    first: Callable[[OfflineJob, RunFolder], Mapping[str, float]] | None = None,
) -> Artifact | None:
    """Train, or with `dry_run` only show. `first` runs before the training and adds metrics to the model's manifest.

    Raises InputError before Ray starts if the input is wrong.
    """
    config = job.config
    check_lengths(job)
    plan = plan_ranks(config)
    show_arithmetic(job)
    if job.stop_token_ids:
        show_special_tokens(tokenizer, job.stop_token_ids)
    show_plan(plan)
    show_left_out(quarantine)
    job = replace(job, manifest={**job.manifest, ROWS: digests_of(job.corpora)})
    if config.dry_run:
        rows = [row for unit in job.corpora.train.units[:NUM_SHOWN] for row in unit]
        show_loss_masks(tokenizer, [(row.token_ids, row.loss_mask) for row in rows])
        is_done(job, look_at_run_folder(config.output, as_plain(config), MAY_CHANGE))
        return None
    with open_run_folder(config.output, as_plain(config), MAY_CHANGE) as folder:
        finished = is_done(job, folder)
        quarantine.write(folder.root)
        if not finished:
            with cluster(plan):
                check_machines(config, folder.root)
                check_capacity(plan)
                job = from_anywhere(job)
                figures = first(job, folder) if first else {}
                run_until_stopped(replace(job, root=folder.root, earlier_figures=figures), folder)
        artifact = open_artifact(folder.model)
        if not finished:
            show_end(job, folder, artifact)
        return artifact


def is_done(job: OfflineJob, folder: RunFolder) -> bool:
    """Return whether the run has ended, and show its end if so. Raises InputError if it cannot continue with this
    configuration."""
    num_steps = job.config.train.steps_over(len(job.corpora.train))
    check_rows(folder, job.manifest[ROWS], {TRAIN: "data.path", HELD_OUT: "held_out"})
    check_more_steps(folder, num_steps)
    finished = is_finished(folder, num_steps)
    if finished:
        CONSOLE.print(f"{folder.model} exists already: this run is finished.", soft_wrap=True)
    return finished


def plan_ranks(config: OfflineConfig) -> Plan:
    return make_plan([RolePlan(role="policy", num_workers=config.placement.policy)])


def run_until_stopped(job: OfflineJob, folder: RunFolder) -> None:
    """Train; raise Stopped with how to continue if a stop was requested."""
    for name in (STOP, LAYOUT):
        (folder.root / name).unlink(missing_ok=True)
    tell = functools.partial(CONSOLE.print, soft_wrap=True)
    stopped = asyncio.run(until_stopped(functools.partial(train, job, folder), tell))
    if not is_finished(folder, job.config.train.steps_over(len(job.corpora.train))):
        assert stopped is not None, "Ray Train ended without a model"
        raise Stopped(stopped, folder.how_to_continue())


def show_end(job: OfflineJob, folder: RunFolder, artifact: Artifact) -> None:
    """Plot the run, and print its metrics and the paths of model and plot."""
    history = read_rows(folder.root / METRICS)
    plot(history, job.panels, folder.root / PLOT)
    before = next((row for row in history if row["step"] == BEFORE_TRAINING), {})
    show_figures(artifact.manifest["metrics"], before)
    CONSOLE.print(f"model: {folder.model}", f"plot: {folder.root / PLOT}", sep="\n", soft_wrap=True)


async def train(job: OfflineJob, folder: RunFolder, stop: Stop) -> signal.Signals | None:
    """Run the ranks of Ray Train and show their progress. Returns the signal that stopped them, if any."""
    config = job.config
    # The driver holds the Ray reference, so that the rows stay in the object store for restarted ranks.
    remote_job = replace(job, corpora=ray.put(job.corpora))
    ranks = asyncio.create_task(asyncio.to_thread(train_on_ranks, remote_job))
    steps, layout = Tail(folder.root / METRICS), Tail(folder.root / LAYOUT)
    if (before := steps.read()) and before[-1]["step"] > BEFORE_TRAINING:
        CONSOLE.print(f"continues a run of {before[-1]['step'] + 1} steps in {folder.root}", soft_wrap=True)
    with ProgressBar(config.train.steps_over(len(job.corpora.train)), CONSOLE) as bar:
        while not ranks.done():
            if stop.requested.is_set():
                (folder.root / STOP).touch()
            await asyncio.wait((ranks,), timeout=POLL_S)
            for said in layout.read():
                CONSOLE.print(said["note"], soft_wrap=True)
            for figures in steps.read():
                if figures["step"] > BEFORE_TRAINING:
                    bar.show(int(figures["step"]), figures)
    await ranks
    return stop.signal if stop.requested.is_set() else None


def from_anywhere(job: OfflineJob) -> OfflineJob:
    """Return the job with absolute paths, since Ray Train's ranks work in another folder."""
    reference = job.reference
    if reference is not None and reference.model is not None:
        reference = replace(reference, model=str(Path(reference.model).resolve()))
    return replace(job, config=replace(job.config, model=str(Path(job.config.model).resolve())), reference=reference)


def check_lengths(job: OfflineJob) -> None:
    limit = job.config.backend.max_tokens_per_microbatch
    corpora = [job.corpora.train, *job.corpora.held_out.values()]
    longest = max(sum(row.num_tokens for row in unit) for corpus in corpora for unit in corpus.units)
    if longest > limit:
        raise InputError(
            f"backend.max_tokens_per_microbatch={limit}: the longest row, or pair, has {longest} tokens and must fit; "
            "raise it to at least that"
        )


def show_arithmetic(job: OfflineJob) -> None:
    config, corpus = job.config, job.corpora.train
    lengths = [row.num_tokens for unit in corpus.units for row in unit]
    num_steps = config.train.steps_over(len(corpus))
    held_out = ", ".join(f"{name} {len(each)}" for name, each in job.corpora.held_out.items())
    show_table(
        "Batch arithmetic, all figures global",
        ("quantity", "value", "from"),
        [
            ("rows", len(corpus), f"{sum(lengths)} tokens; the longest sequence has {max(lengths)}"),
            ("rows held out", held_out or "none", "held_out.path or held_out.fraction"),
            ("rows per optimiser step", config.train.rows_per_step, "train.rows_per_step, over all ranks"),
            ("optimiser steps", num_steps, f"{num_steps * config.train.rows_per_step / len(corpus):.1f} epochs"),
        ],
    )  # fmt: skip


NOT_HELD_OUT = ("train", "seconds", "memory_bytes")
"""First parts of the names of metrics that do not measure the model on held-out rows."""


def show_figures(after: Mapping[str, float], before: Mapping[str, float]) -> None:
    """Show held-out metrics before and after training, and those measured only at the end."""
    rows = [
        (name, f"{before[name]:.4g}" if before.get(name) is not None else "", f"{value:.4g}")
        for name, value in after.items()
        if name.split("/")[0] not in NOT_HELD_OUT and "/" in name and isinstance(value, int | float)
    ]
    if rows:
        show_table("Held out", ("figure", "before", "after"), rows)

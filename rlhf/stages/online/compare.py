"""Comparison of policies on the same prompts with the same seeds, for `launch/compare.py`."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from rlhf.actors.learner_worker import LearnerSpec, LearnerWorker
from rlhf.actors.placement import Bundles, cluster, reserved
from rlhf.actors.plan import Plan
from rlhf.actors.roles import ModelRole, fetch
from rlhf.actors.workers import Spawner
from rlhf.config import CompareConfig, as_plain
from rlhf.models.causal_lm import SamplingDistribution, read_model_config
from rlhf.models.reward_model import check_vocabulary
from rlhf.runtimes.configs import BackendConfig
from rlhf.stages.console import CONSOLE
from rlhf.stages.online.compare_report import measure_policy, write_comparison
from rlhf.stages.online.engines import engines, wait_for_start
from rlhf.stages.online.job import Job, prepare
from rlhf.stages.online.job import plan_roles as plan_of_run
from rlhf.stages.online.texts import say_unmeasured
from rlhf.stages.start import as_first_started, check_machines
from rlhf.train.artifact import MANIFEST, Artifact, committing, open_artifact
from rlhf.train.batching import minibatch, packing_of
from rlhf.train.clock import Clock
from rlhf.train.layout import choose_layout
from rlhf.train.measure import first_answers, sample
from rlhf.train.online import row_group
from rlhf.train.run_folder import REPORT, look_at_run_folder, open_run_folder
from rlhf.types import Batch, Failure, Group, RunError

Logprobs = list[np.ndarray]
"""[tokens] float32 for each pack of a batch, its rows end to end; 0 for tokens that the policy did not choose."""


def plan_roles(config: CompareConfig) -> Plan:
    """Plan engines with the judge, and the ranks that compute logprobs of the completions; they work in sequence."""
    return plan_of_run(config).only("sampler", "reward", "policy")


def run(config: CompareConfig) -> Artifact | None:
    """Sample, compute logprobs and report, or with `dry_run` only check.

    Raises InputError before Ray starts if the input is wrong.
    """
    config = as_first_started(config)
    say_unmeasured(config)
    jobs = {name: prepare(replace(config, model=folder)) for name, folder in config.policies.items()}
    read_model_config(config.model)
    for name, job in jobs.items():
        check_vocabulary("model", config.model, config.policies[name], job.tokenizer)
    plan = plan_roles(config)
    if config.dry_run:
        look_at_run_folder(config.output, as_plain(config))
        return None
    with open_run_folder(config.output, as_plain(config)) as folder:
        report = folder.root / REPORT
        if (report / MANIFEST).is_file():
            CONSOLE.print(f"{report} exists already: this comparison is finished.", soft_wrap=True)
        else:
            with cluster(plan):
                check_machines(config, folder.root)
                compare(config, jobs, plan, report)
        return open_artifact(report)


def compare(config: CompareConfig, jobs: Mapping[str, Job], plan: Plan, report: Path) -> None:
    """Sample the policies in sequence, and commit the report."""
    groups = {name: sample_policy(job, plan.only("sampler", "reward")) for name, job in jobs.items()}
    batches = {name: as_batch(config, each) for name, each in groups.items()}
    logprobs = compute_logprobs(config, jobs, plan.only("policy"), batches)
    figures = {}
    for name, model in config.policies.items():
        nats, prompts = divergence(batches[name], *logprobs[name])
        figures[name] = measure_policy(config, model, groups[name], nats, prompts)
    samples = {name: each[: config.validation.num_shown] for name, each in groups.items()}
    texts = {name: first_answers(each, fetch) for name, each in samples.items()}
    metrics = {f"{name}/{key}": value for name, each in figures.items() for key, value in each.headlines().items()}
    manifest = {"kind": "report", "config": as_plain(config), "metrics": metrics}
    with committing(report, manifest) as staging:
        write_comparison(figures, texts, staging)
    CONSOLE.print(f"report: {report}", soft_wrap=True)


def sample_policy(job: Job, plan: Plan) -> list[Group]:
    async def ask(bundles: Bundles) -> list[Group]:
        async with engines(replace(job, plan=plan), bundles) as samplers:
            requests = [job.sampling] * job.config.validation.samples_per_prompt
            return await sample(samplers, job.measured_prompts, requests)

    CONSOLE.print(f"sampling {job.config.model}", soft_wrap=True)
    with reserved(plan, job.config.placement.timeout_s) as bundles:
        groups = asyncio.run(ask(bundles))
    require_scores(job.config.model, groups)
    return groups


def require_scores(model: str, groups: Sequence[Group]) -> None:
    """Raise RunError if no episode has a score: there is nothing to compare."""
    failures = [info.score for group in groups for info in group.infos if isinstance(info.score, Failure)]
    if not any(group.survivors for group in groups):
        raise RunError(
            f"all {len(failures)} episodes of {model} failed; the last one: {failures[-1].kind}: "
            f"{failures[-1].message}; correct its cause, and compare again"
        )


def as_batch(config: CompareConfig, groups: Sequence[Group]) -> Batch:
    """Return all rollouts with a score, in packs."""
    rows = [row_group(group, [0.0] * len(group.survivors)) for group in groups]
    packing = packing_of(with_layout(config.backend), config.placement.policy)
    return Batch(step=0, minibatches=(minibatch(rows, packing),), order=(0,))


def compute_logprobs(
    config: CompareConfig, jobs: Mapping[str, Job], plan: Plan, batches: Mapping[str, Batch]
) -> dict[str, tuple[Logprobs, Logprobs]]:
    """Compute the logprobs of each policy's completions by itself and by the reference, under its sampling
    distribution.

    A model is loaded once for everything it computes under the same temperature and banned tokens.
    """
    names_of: dict[tuple[str, SamplingDistribution], list[str]] = {}
    for name, job in jobs.items():
        for model in dict.fromkeys((config.policies[name], config.model)):
            names_of.setdefault((model, job.distribution), []).append(name)
    by_model: dict[tuple[str, str], Logprobs] = {}
    for (model, _), names in names_of.items():
        CONSOLE.print(f"logprobs by {model}", soft_wrap=True)
        with reserved(plan, config.placement.timeout_s) as bundles:
            job, parts = jobs[names[0]], [batches[name] for name in names]
            columns = asyncio.run(logprobs_on_ranks(job, model, plan, bundles, parts))
        by_model |= {(model, name): column for name, column in zip(names, columns, strict=True)}
    return {name: (by_model[config.policies[name], name], by_model[config.model, name]) for name in jobs}


async def logprobs_on_ranks(
    job: Job, model: str, plan: Plan, bundles: Bundles, batches: Sequence[Batch]
) -> list[Logprobs]:
    role = ModelRole(Spawner(plan, bundles, Clock())("policy", LearnerWorker), "logprobs", Clock())
    spec = LearnerSpec(model_path=model, backend=job.config.backend, optimizer=None, distribution=job.distribution)
    await wait_for_start([role.start(spec)], job.config.placement)
    await role.use_layout(choose_layout(with_layout(job.config.backend), {"policy": role.exactness}))
    return [fetch((await role.compute_columns(batch))["logprobs"]) for batch in batches]


def with_layout(config: BackendConfig) -> BackendConfig:
    """Set the layout, since packs are cut before the models are loaded: padded, unless `packed` is set."""
    return replace(config, packed=bool(config.packed))


def divergence(batch: Batch, ours: Logprobs, theirs: Logprobs) -> tuple[np.ndarray, np.ndarray]:
    """Return log pi - log ref summed over each completion, [completions] float64, in nats (k1; Schulman 2020), and the
    number of its prompt, [completions] int; in the order of the packs."""
    nats: list[np.ndarray] = []
    (part,) = batch.minibatches
    for pack, one, other in zip(part.packs, ours, theirs, strict=True):
        ends = np.cumsum([row.num_tokens for row in pack.rows])
        nats += np.split(one.astype(np.float64) - other, ends[:-1])
    return np.array([each.sum() for each in nats]), np.array([row.group for row in part.rows])

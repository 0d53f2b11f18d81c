"""Policies from preferences, by DPO and its variants, for `launch/dpo.py`."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import replace

from rlhf.algorithms.kto import KTOConfig
from rlhf.config import PreferenceRunConfig
from rlhf.data.kto import mismatched_rows
from rlhf.models.causal_lm import read_model_config, refuse_experts
from rlhf.models.reward_model import check_vocabulary
from rlhf.stages.offline import run as offline
from rlhf.stages.start import as_first_started
from rlhf.train.artifact import Artifact
from rlhf.train.offline import Corpus
from rlhf.types import InputError, Unit

PANELS = {
    "loss": "train/loss",
    "chosen over rejected (share of pairs)": "train/reward_accuracy",
    "reward margin": "train/reward_margin",
    "held-out accuracy": "held_out/reward_accuracy",
    "logprob of chosen (nats)": "train/chosen_logprobs",
}


def run(config: PreferenceRunConfig) -> Artifact | None:
    """Train, or with `dry_run` only check. Raises InputError before Ray starts if the input is wrong."""
    config = as_first_started(config)
    tokenizer, context = offline.open_model(config)
    algorithm, reference = config.algorithm, config.reference
    if algorithm.reads_reference and reference.model is not None:
        refuse_experts(reference.model, read_model_config(reference.model))
        check_vocabulary("reference.model", reference.model, config.model, tokenizer)
    parts, quarantine = offline.load_parts(config, tokenizer, context)
    corpora = offline.corpora_of(parts, functools.partial(corpus_of, config))
    job = offline.policy_job(config, algorithm.build(), corpora, parts, tokenizer, PANELS)
    job = replace(job, reference=reference if algorithm.reads_reference else None)
    return offline.run(job, tokenizer, quarantine)


def corpus_of(config: PreferenceRunConfig, units: Sequence[Unit]) -> Corpus:
    """Return the corpus of the algorithm. Raises InputError if the data is of another kind."""
    labelled = isinstance(config.algorithm, KTOConfig)
    if len(units[0]) != (1 if labelled else 2):
        wanted = "labelled answers; set data=labelled" if labelled else "pairs; set data=preferences"
        name = type(config.algorithm).__name__.removesuffix("Config").lower()
        raise InputError(f"algorithm={name}: it learns from {wanted}")
    return Corpus(
        units=units, mismatched_rows=mismatched_rows([row for (row,) in units], config.seed) if labelled else ()
    )

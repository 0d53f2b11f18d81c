"""Supervised fine-tuning and continued pretraining, for `launch/sft.py`."""

from __future__ import annotations

from rlhf.algorithms.sft import SFTConfig
from rlhf.config import SFTRunConfig
from rlhf.stages.offline import run as offline
from rlhf.stages.start import as_first_started
from rlhf.train.artifact import Artifact
from rlhf.train.offline import Corpus

PANELS = {
    "loss (nats per token)": "train/loss",
    "held-out loss (nats per token)": "held_out/loss",
    "domain's held-out loss": "held_out_domain/loss",
    "general held-out loss": "held_out_general/loss",
    "gradient norm": "train/gradient_norm",
}


def run(config: SFTRunConfig) -> Artifact | None:
    """Train, or with `dry_run` only check. Raises InputError before Ray starts if the input is wrong."""
    config = as_first_started(config)
    tokenizer, context = offline.open_model(config)
    parts, quarantine = offline.load_parts(config, tokenizer, context)
    corpora = offline.corpora_of(parts, Corpus.of)
    job = offline.policy_job(config, SFTConfig().build(), corpora, parts, tokenizer, PANELS)
    return offline.run(job, tokenizer, quarantine)

"""Supervised fine-tuning and continued pretraining: what `launch/sft.py` calls."""

from __future__ import annotations

import functools

from rlhf.algorithms.sft import SFTConfig
from rlhf.config import SFTRunConfig
from rlhf.models.heads import Head
from rlhf.models.tokenizer import eos_token_ids, stop_token_ids
from rlhf.stages import offline
from rlhf.stages.model_files import manifest_of, write_tokenizer
from rlhf.stages.offline_rank import Corpora, OfflineJob
from rlhf.train.artifact import Artifact
from rlhf.train.offline import Corpus

PANELS = {
    "loss (nats per token)": "train/loss",
    "held-out loss (nats per token)": "held_out/loss",
    "gradient norm": "train/gradient_norm",
}


def run(config: SFTRunConfig) -> Artifact | None:
    """Train, or with `dry_run` only check. Raises InputError before Ray starts where the input is wrong."""
    tokenizer, context = offline.open_model(config)
    parts, quarantine = offline.load_parts(config, config.data, tokenizer, context)
    # Documents need no chat template.
    ends = stop_token_ids if tokenizer.chat_template else eos_token_ids
    stop_ids = tuple(ends(config.model, tokenizer))
    job = OfflineJob(
        config=config,
        head=Head.causal_lm,
        loss=SFTConfig().build(),
        corpora=Corpora(
            train=Corpus(units=parts.train),
            held_out={name: Corpus(units=units) for name, units in parts.held_out.items()},
        ),
        manifest={**manifest_of(config, config.model), "data": parts.figures},
        save_beside=functools.partial(write_tokenizer, tokenizer, stop_ids),
        prompts=offline.prompts_to_complete(config, parts.held_out.get(offline.HELD_OUT, []), tokenizer),
        stop_token_ids=stop_ids,
        decode=functools.partial(tokenizer.decode, skip_special_tokens=True),
        panels=PANELS,
    )
    return offline.run(job, tokenizer, quarantine)

"""Reward models of answers and of steps, for `launch/reward_model.py`."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import TYPE_CHECKING

from rlhf.algorithms.reward_model import RewardModelConfig
from rlhf.config import RewardModelRunConfig
from rlhf.data.chat import turn_end_id
from rlhf.data.split import prompt_groups
from rlhf.evaluation.preference import folds
from rlhf.models.heads import Head, config_for, read_config
from rlhf.stages.model_files import manifest_of
from rlhf.stages.offline import run as offline
from rlhf.stages.offline.folds import cross_validate
from rlhf.stages.offline.rank import OfflineJob
from rlhf.stages.offline.reward_report import report_on_rank
from rlhf.stages.start import as_first_started
from rlhf.train.artifact import Artifact
from rlhf.train.offline import Corpus
from rlhf.types import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PANELS = {
    "loss": "train/loss",
    "right side preferred (share of pairs)": "train/accuracy",
    "held-out accuracy": "held_out/accuracy",
    "held-out loss": "held_out/loss",
    "gradient norm": "train/gradient_norm",
}


def run(config: RewardModelRunConfig) -> Artifact | None:
    """Train, or with `dry_run` only check. Raises InputError before Ray starts if the input is wrong."""
    config = as_first_started(config)
    tokenizer, context = offline.open_model(config)
    compares = isinstance(config.algorithm, RewardModelConfig)
    check_model(config, tokenizer)
    parts, quarantine = offline.load_parts(config, tokenizer, context)
    if len(parts.train[0]) != (2 if compares else 1):
        wanted = ("reward_model", "pairs", "rankings") if compares else ("process_reward", "steps", "steps")
        raise InputError(f"algorithm={wanted[0]}: it learns from {wanted[1]}; set data={wanted[2]}")
    job = OfflineJob(
        config=config,
        head=Head.score,
        loss=config.algorithm.build(),
        corpora=offline.corpora_of(parts, Corpus.of),
        manifest={**manifest_of(config, config.model), "auto_class": Head.score.value},
        save_beside=functools.partial(save_tokenizer, tokenizer),
        conclude=report_on_rank if compares else None,
        panels=PANELS,
    )
    if config.folds is None:
        return offline.run(job, tokenizer, quarantine)
    if not compares:
        raise InputError(f"folds={config.folds}: cross-validation measures pairs; set folds=null for process rewards")
    split = folds(prompt_groups(parts.train), config.folds, config.seed)
    return offline.run(job, tokenizer, quarantine, functools.partial(cross_validate, split))


def check_model(config: RewardModelRunConfig, tokenizer: PreTrainedTokenizerBase) -> None:
    """Raise InputError if the model to start from cannot become a reward model."""
    own = read_config(config.model, Head.score)
    architecture = (own.architectures or [""])[0]
    if architecture.endswith("Classification") and own.num_labels != 1:
        raise InputError(
            f"model={config.model}: it is a {architecture} with {own.num_labels} labels, a reward model has one; start "
            "from a model without a head, a policy, or a reward model"
        )
    model_config = config_for(config.model, Head.score)
    if model_config.pad_token_id is None:
        raise InputError(
            f"model={config.model}: neither its config.json nor its tokenizer has a padding token, through which a "
            "reward model finds a sequence's end; set pad_token in tokenizer_config.json"
        )
    if tokenizer.chat_template:
        if turn_end_id(tokenizer) == model_config.pad_token_id:
            raise InputError(
                f"model={config.model}: its padding token is the one that ends a turn, where the score is read, so "
                "transformers would look for the score before it; set another pad_token in tokenizer_config.json"
            )
        return
    if config.backend.packed:
        raise InputError(
            f"backend.packed=true: model={config.model} has no chat template, so it is read as an encoder, whose rows "
            "cannot be packed; set backend.packed=false"
        )


def save_tokenizer(tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    tokenizer.save_pretrained(folder)

"""Held-out prompts of a run, and the checks of what is measured on them, before accelerators are held."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from rlhf.config import OnlineConfig
from rlhf.data.mix import load_sets
from rlhf.data.order import by_set
from rlhf.data.prompts import load_prompts
from rlhf.data.split import digest_of_prompt, split_prompts
from rlhf.stages.online.parts import check_parts
from rlhf.train.best import Direction
from rlhf.train.measure import figure_names
from rlhf.train.tracking import VALIDATION
from rlhf.train.validation import PERPLEXITY
from rlhf.types import InputError, Prompt

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldOut:
    """Prompts of the training, and those that are never trained on."""

    train: list[Prompt]
    prompts: list[Prompt]
    """Held-out prompts; empty if nothing is held out."""
    origin: str = "validation.path or validation.fraction"
    """File or share that they come from, in words."""


def hold_out(config: OnlineConfig, tokenizer: PreTrainedTokenizerBase) -> HeldOut:
    """Load the prompts, and split off or load held-out ones. Raises InputError if too few are left, or too many are in
    both files, or a key of the validation cannot have an effect."""
    validation = config.validation
    check_parts(config)
    context_tokens, max_tokens = config.sampler.context_tokens, config.sampling.max_tokens
    prompts = load_sets(config.data, tokenizer, context_tokens=context_tokens, max_completion_tokens=max_tokens)
    if validation.path is not None:
        if config.data.sets:
            raise InputError(
                f"validation.path={validation.path}: with data.sets no file has the held-out prompts of all; leave it "
                "null, and split prompts off each set with validation.fraction, as in validation.fraction=0.1"
            )
        file = config.data.at(validation.path)
        found = load_prompts(file, tokenizer, context_tokens=context_tokens, max_completion_tokens=max_tokens)
        held_out = without_overlap(config, prompts, found)
    elif validation.fraction:
        held_out = split_off(config, prompts)
    else:
        held_out = HeldOut(train=prompts, prompts=[])
    held_out = replace(held_out, train=[each for each in held_out.train if each.data_set in config.data.weights])
    check_weighted(config, held_out.train)
    check_sources(config, held_out.prompts or prompts)
    check_figures(config, held_out.prompts[: validation.num_prompts])
    return held_out


def split_off(config: OnlineConfig, prompts: Sequence[Prompt]) -> HeldOut:
    """Hold out `validation.fraction` of the prompts. Raises InputError if one of the sides has too few."""
    fraction, per_step = config.validation.fraction, config.stream.prompts_per_step
    train, held_out = split_prompts(prompts, fraction)
    given = f"validation.fraction={fraction}: of {len(prompts)} prompts in {config.data.origin}"
    if not held_out:
        raise InputError(f"{given} none is held out; raise it, or give held-out prompts in validation.path")
    if not train or len(train) < per_step <= len(prompts):
        raise InputError(
            f"{given} {len(train)} are left for training, fewer than stream.prompts_per_step={per_step}; lower the "
            "fraction or stream.prompts_per_step, or give held-out prompts in validation.path"
        )
    return HeldOut(train=train, prompts=held_out, origin=f"validation.fraction={fraction}, never trained on")


def without_overlap(config: OnlineConfig, train: list[Prompt], found: Sequence[Prompt]) -> HeldOut:
    """Leave out held-out prompts that are trained on. Raises InputError if they are too many."""
    path, limit = config.validation.path, config.validation.max_overlap
    digests = set(map(digest_of_prompt, train))
    held_out = [prompt for prompt in found if digest_of_prompt(prompt) not in digests]
    overlap = len(found) - len(held_out)
    if overlap > limit * len(found) or not held_out:
        raise InputError(
            f"validation.path={path}: {overlap} of its {len(found)} prompts are in data.path={config.data.path} too, "
            f"more than validation.max_overlap={limit}; remove them from one of the files, or split one file with "
            "validation.fraction"
        )
    left_out = f"; {overlap} of its {len(found)} prompts are trained on, and left out here" if overlap else ""
    return HeldOut(train=train, prompts=held_out, origin=f"{path}{left_out}")


def check_weighted(config: OnlineConfig, train: Sequence[Prompt]) -> None:
    """Raise InputError if a set that is to be trained on has no prompt."""
    found = by_set(train)
    for name in config.data.weights:
        if name not in found:
            raise InputError(
                f"data.sets.{name}: no prompt of the set is left for training with validation.fraction="
                f"{config.validation.fraction}; lower that, or give the set weight 0 to measure it only"
            )


def check_sources(config: OnlineConfig, prompts: Sequence[Prompt]) -> None:
    key = config.validation.source_key
    without = [prompt.source for prompt in prompts if key is not None and key not in prompt.meta]
    if without:
        raise InputError(
            f"validation.source_key={key}: {len(without)} of {len(prompts)} rows have no such field, the first is "
            f"{without[0]}; name a field that all have, or leave it null"
        )


def check_figures(config: OnlineConfig, held_out: Sequence[Prompt]) -> None:
    """Raise InputError for keys whose figure would never be measured."""
    validation, best = config.validation, config.checkpoint.keep_best
    if validation.every is not None and not held_out:
        raise InputError(
            f"validation.every={validation.every}: no prompts are held out; set validation.path to a file of them, or "
            "validation.fraction, as in validation.fraction=0.1"
        )
    if validation.patience is not None and best is None:
        raise InputError(
            f"validation.patience={validation.patience}: no metric says what is better; set checkpoint.keep_best, as "
            f"in checkpoint.keep_best={VALIDATION}reward"
        )
    known = [f"{VALIDATION}{name}" for name in figure_names(validation, held_out)]
    if twice := [name for name, number in Counter(known).items() if number > 1]:
        raise InputError(
            f"validation.texts, validation.source_key: two metrics would be called {twice[0]}; rename a text"
        )
    if best is None:
        return
    if validation.every is None:
        raise InputError(
            f"checkpoint.keep_best={best}: it is measured only before and after training; set validation.every, as in "
            "validation.every=10"
        )
    if best not in known:
        raise InputError(f"checkpoint.keep_best={best}: it is never measured; known are {', '.join(known)}")
    if best.startswith(LOWER_IS_BETTER) and config.checkpoint.best_is is Direction.highest:
        raise InputError(
            f"checkpoint.keep_best={best}, checkpoint.best_is=highest: a lower value is better; set "
            "checkpoint.best_is=lowest"
        )


LOWER_IS_BETTER = (PERPLEXITY, f"{VALIDATION}nats_per_token/")

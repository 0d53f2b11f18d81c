"""Prompts of a run, from a file or from several sets."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import chain, zip_longest
from typing import TYPE_CHECKING

from rlhf.data.prompts import PromptDataConfig, PromptSetConfig, load_prompts
from rlhf.types import InputError, Prompt

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def load_sets(
    config: PromptDataConfig, tokenizer: PreTrainedTokenizerBase, *, context_tokens: int, max_completion_tokens: int
) -> list[Prompt]:
    """Return all prompts: those of a single file in its order, those of several sets in turn. Raises InputError."""
    if not config.sets:
        return load_prompts(
            config, tokenizer, context_tokens=context_tokens, max_completion_tokens=max_completion_tokens
        )
    loaded: dict[str, list[Prompt]] = {}
    for name, each in config.sets.items():
        longest = limit_of(name, each, max_completion_tokens)
        try:
            prompts = load_prompts(
                each, tokenizer, context_tokens=context_tokens, max_completion_tokens=longest, data_set=name
            )
        except InputError as error:
            raise InputError(f"data.sets.{name}: {error}") from error
        loaded[name] = [
            replace(prompt, reward_weights=each.reward or None, max_tokens=each.max_tokens) for prompt in prompts
        ]
    return in_turn(loaded.values())


def limit_of(name: str, config: PromptSetConfig, max_tokens: int) -> int:
    """Return the longest completion of a set. Raises InputError if it is longer than those of the run."""
    if config.max_tokens is not None and config.max_tokens > max_tokens:
        raise InputError(
            f"data.sets.{name}.max_tokens={config.max_tokens}: sampling.max_tokens={max_tokens} is the most that any "
            "set may have; lower one, or raise the other"
        )
    return config.max_tokens or max_tokens


def in_turn(sets: Iterable[Sequence[Prompt]]) -> list[Prompt]:
    """Return the first of each set, then the second of each, and so on: any beginning of the list has all sets."""
    return [prompt for prompt in chain.from_iterable(zip_longest(*sets)) if prompt is not None]

"""Completions of held-out prompts by a model in training."""

from __future__ import annotations

from collections.abc import Sequence

from rlhf.evaluation.text import Language, bleu4, exact_match, rouge_l


def as_lines(prompts: Sequence[str], completions: Sequence[str], expected: Sequence[str]) -> list[dict[str, str]]:
    """Return a line for each prompt, for `samples.jsonl`."""
    keys = ("prompt", "completion", "expected")
    return [dict(zip(keys, line, strict=True)) for line in zip(prompts, completions, expected, strict=True)]


def compare_samples(completions: Sequence[str], expected: Sequence[str], language: Language | None) -> dict[str, float]:
    """Return metrics of the completions against the expected ones; empty without a language or completions."""
    if language is None or not completions:
        return {}
    return {
        "samples/bleu4": bleu4(completions, expected, language),
        "samples/rouge_l": rouge_l(completions, expected, language),
        "samples/exact_match": exact_match(completions, expected),
    }

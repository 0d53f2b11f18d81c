"""Reward for a completion that equals the answer, letter by letter."""

from __future__ import annotations

from rlhf.rewards.text import answer_of
from rlhf.types import Prompt, Rollout


def exact(prompt: Prompt, rollout: Rollout, *, ignore_case: bool = False) -> float:
    """Return 1.0 if the completion equals the prompt's answer, ignoring surrounding white space, else 0.0."""
    answer, text = answer_of(prompt), rollout.text.strip()
    if ignore_case:
        answer, text = answer.casefold(), text.casefold()
    return float(text == answer)

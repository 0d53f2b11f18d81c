"""The completion is the answer, letter by letter."""

from __future__ import annotations

from rlhf.rewards.text import answer_of
from rlhf.types import Prompt, Rollout


def exact(prompt: Prompt, rollout: Rollout, *, ignore_case: bool = False) -> float:
    """1.0 where the completion equals the prompt's answer, white space around both aside, else 0.0."""
    answer, text = answer_of(prompt), rollout.text.strip()
    if ignore_case:
        answer, text = answer.casefold(), text.casefold()
    return float(text == answer)

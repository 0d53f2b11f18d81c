"""Reward for a completion in the required format."""

from __future__ import annotations

import re

from rlhf.types import Prompt, Rollout

THINK_THEN_ANSWER = r"\s*<think>(?:(?!</?think>).)*</think>(?=\s*\S)(?:(?!</?think>).)*"
"""Reasoning between one pair of think tags, then an answer that is not empty and has no such tag."""


def format(prompt: Prompt, rollout: Rollout, *, pattern: str = THINK_THEN_ANSWER) -> float:
    r"""Return 1.0 if the regular expression matches the whole completion (`.` matches line ends too), else 0.0.

    `pattern: '.*\\boxed\{.+\}.*'` requires a boxed answer. If the chat template already opens the think tag, the
    completion starts inside it: drop `<think>` from the pattern.
    """
    return float(re.fullmatch(pattern, rollout.text, re.DOTALL) is not None)

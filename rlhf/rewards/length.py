"""Penalty for a completion that is too long."""

from __future__ import annotations

from rlhf.ops.overlong import soft_overlong_penalty
from rlhf.types import Prompt, Rollout


def length(prompt: Prompt, rollout: Rollout, *, max_tokens: int, buffer_tokens: int) -> float:
    """Return the soft overlong penalty (DAPO, Yu et al. 2025, eq. 13) of the tokens that the policy chose.

    0 up to `max_tokens - buffer_tokens` tokens, then linearly down to -1 at `max_tokens` and beyond. A buffer of 0
    makes it a step. Raises ValueError unless 0 <= buffer_tokens <= max_tokens.
    """
    if not 0 <= buffer_tokens <= max_tokens:
        raise ValueError(f"buffer_tokens={buffer_tokens} must lie between 0 and max_tokens={max_tokens}")
    return soft_overlong_penalty(int(rollout.loss_mask.sum()), max_tokens=max_tokens, buffer_tokens=buffer_tokens)

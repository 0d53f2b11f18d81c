"""Penalty for a completion that is too long."""

from __future__ import annotations

from rlhf.types import Prompt, Rollout


def length(prompt: Prompt, rollout: Rollout, *, max_tokens: int, buffer_tokens: int) -> float:
    """Return the soft overlong penalty (DAPO, Yu et al. 2025, eq. 13) of the tokens that the policy chose.

    0 up to `max_tokens - buffer_tokens` tokens, then linearly down to -1 at `max_tokens` and beyond. A buffer of 0
    makes it a step. Raises ValueError unless 0 <= buffer_tokens <= max_tokens.
    """
    if not 0 <= buffer_tokens <= max_tokens:
        raise ValueError(f"buffer_tokens={buffer_tokens} must lie between 0 and max_tokens={max_tokens}")
    num_tokens = int(rollout.loss_mask.sum())
    excess = num_tokens - (max_tokens - buffer_tokens)
    if excess <= 0:
        return 0.0
    return -1.0 if num_tokens > max_tokens else -excess / buffer_tokens

"""Policy-gradient objectives per token."""

import torch
from torch import Tensor

from rlhf.ops.log_ratio import bounded_log_ratio


def clipped_surrogate(
    logprobs: Tensor,  # [B, T]
    old_logprobs: Tensor,  # [B, T]
    advantages: Tensor,  # [B, T]
    *,
    clip_low: float,
    clip_high: float,
) -> Tensor:  # [B, T], not reduced
    """PPO's clipped objective, negated (Schulman et al. 2017, eq. 7). clip_high > clip_low is DAPO's clip-higher.

    A log-ratio above 20 nats counts as 20 and has no gradient: a token far off the old policy has a finite loss.
    """
    ratio = bounded_log_ratio(logprobs, old_logprobs).exp()
    clipped = ratio.clamp(1 - clip_low, 1 + clip_high)
    return -torch.minimum(ratio * advantages, clipped * advantages)


def clipped_tokens(
    logprobs: Tensor,  # [B, T]
    old_logprobs: Tensor,  # [B, T]
    advantages: Tensor,  # [B, T]
    *,
    clip_low: float,
    clip_high: float,
) -> Tensor:  # [B, T] bool
    """Tokens whose gradient the clip removes: the ratio left the trust region in the direction of the advantage."""
    ratio = bounded_log_ratio(logprobs, old_logprobs).exp()
    return ((ratio > 1 + clip_high) & (advantages > 0)) | ((ratio < 1 - clip_low) & (advantages < 0))

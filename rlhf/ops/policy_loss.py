"""Policy-gradient objectives per token."""

from enum import StrEnum

import torch
from torch import Tensor

from rlhf.ops.log_ratio import bounded_log_ratio
from rlhf.ops.microbatch import MicroBatch


class Ratio(StrEnum):
    """Ratios of the new policy to the old one."""

    token = "token"
    sequence = "sequence"


def importance_ratio(
    logprobs: Tensor,  # [B, T]
    old_logprobs: Tensor,  # [B, T]
    batch: MicroBatch,
    level: Ratio,
) -> Tensor:  # [B, T]
    """Return each token's ratio to the old policy, or its row's: the geometric mean over the row's loss tokens (GSPO,
    Zheng et al. 2025, eq. 7), with the gradient of the token's own logprob (GSPO-token, eq. 14).

    A log-ratio above 20 nats counts as 20; a token's ratio then has no gradient.
    """
    if level is Ratio.token:
        return bounded_log_ratio(logprobs, old_logprobs).exp()
    mask = batch.loss_mask
    sums = batch.per_row((logprobs.detach() - old_logprobs).masked_fill(~mask, 0.0))
    means = sums / batch.per_row(mask.to(sums.dtype)).clamp(min=1)
    return bounded_log_ratio(batch.per_token(means), logprobs.detach() - logprobs).exp()


def clipped_surrogate(
    ratio: Tensor,  # [B, T]
    advantages: Tensor,  # [B, T]
    *,
    clip_low: float,
    clip_high: float,
    dual_clip: float | None = None,
) -> Tensor:  # [B, T], not reduced
    """PPO's clipped objective, negated (Schulman et al. 2017, eq. 7). clip_high > clip_low is DAPO's clip-higher.

    `dual_clip` bounds the ratio from above where the advantage is negative, which PPO's clip does not (Ye et al. 2020,
    eq. 5).
    """
    clipped = ratio.clamp(1 - clip_low, 1 + clip_high)
    objective = torch.minimum(ratio * advantages, clipped * advantages)
    if dual_clip is not None:
        objective = torch.where(advantages < 0, torch.maximum(objective, dual_clip * advantages), objective)
    return -objective


def clipped_tokens(
    ratio: Tensor,  # [B, T]
    advantages: Tensor,  # [B, T]
    *,
    clip_low: float,
    clip_high: float,
    dual_clip: float | None = None,
) -> Tensor:  # [B, T] bool
    """Tokens whose gradient the clip removes: the ratio left the trust region in the direction of the advantage, or
    exceeds the dual clip."""
    clipped = ((ratio > 1 + clip_high) & (advantages > 0)) | ((ratio < 1 - clip_low) & (advantages < 0))
    return clipped if dual_clip is None else clipped | ((ratio > dual_clip) & (advantages < 0))


def cispo_surrogate(
    logprobs: Tensor,  # [B, T]
    ratio: Tensor,  # [B, T]
    advantages: Tensor,  # [B, T]
    *,
    clip_low: float,
    clip_high: float,
) -> Tensor:  # [B, T], not reduced
    """CISPO, negated: the clipped ratio is a weight without gradient, so that clipped tokens learn too (MiniMax 2025,
    MiniMax-M1, eq. 4)."""
    weights = ratio.detach().clamp(1 - clip_low, 1 + clip_high)
    return -weights * advantages * logprobs

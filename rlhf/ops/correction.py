"""Importance weights that correct for tokens of another policy than the one that learns from them.

With b the logprob under which the engine drew a token, and o the learner's logprob of it before the update, the
log-ratio is d = o - b. It is not 0 because the engine rounds otherwise (mismatch), or because it held older weights
(staleness).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import torch
from torch import Tensor

from rlhf.ops.log_ratio import MAX_LOG_RATIO
from rlhf.ops.microbatch import MicroBatch


class CorrectionKind(StrEnum):
    """Corrections of the policy gradient."""

    auto = "auto"
    off = "off"
    token_truncate = "token_truncate"
    token_mask = "token_mask"
    sequence_truncate = "sequence_truncate"
    sequence_mask = "sequence_mask"
    geometric_mask = "geometric_mask"


TRUNCATING = (CorrectionKind.token_truncate, CorrectionKind.sequence_truncate)


@dataclass(frozen=True, slots=True)
class Correction:
    """Weights of the policy gradient, without gradient of their own."""

    weights: Tensor  # [B, T]; outside the loss mask without meaning
    truncated: Tensor  # [B, T] bool, tokens whose weight is the upper bound instead of their ratio
    masked: Tensor  # [B, T] bool, tokens whose weight is 0


def correction_weights(
    log_ratio: Tensor,  # [B, T], d = o - b
    batch: MicroBatch,
    kind: CorrectionKind,
    *,
    low: float,
    high: float,
) -> Correction:
    """Compute the weights of one kind.

    token_truncate     min(e^d, high)                   truncated importance sampling (Ionides 2008; Yao et al. 2025)
    token_mask         e^d if low <= e^d <= high else 0          IcePop (Ling team 2025)
    sequence_truncate  min(e^(sum of d), high), of the row
    sequence_mask      e^(sum of d) if within [low, high] else 0
    geometric_mask     1 if low <= e^(mean of d) <= high else 0: rejection alone, whatever the length (Li et al. 2025)

    A sequence is a row. Log-ratios above 20 nats count as 20.
    """
    mask, none = batch.loss_mask, torch.zeros_like(batch.loss_mask)
    log_ratio = log_ratio.detach().masked_fill(~mask, 0.0)
    if kind in (CorrectionKind.off, CorrectionKind.auto):  # a run replaces `auto` before it trains
        return Correction(torch.ones_like(log_ratio), none, none)
    ratio = log_ratio_of(log_ratio, batch, kind).clamp(max=MAX_LOG_RATIO).exp()
    if kind in TRUNCATING:
        return Correction(ratio.clamp(max=high), truncated=mask & (ratio > high), masked=none)
    inside = (ratio >= low) & (ratio <= high)
    kept = torch.ones_like(ratio) if kind is CorrectionKind.geometric_mask else ratio
    return Correction(torch.where(inside, kept, 0.0), truncated=none, masked=mask & ~inside)


def log_ratio_of(log_ratio: Tensor, batch: MicroBatch, kind: CorrectionKind) -> Tensor:  # [B, T]
    """Return the log-ratio that a kind bounds at each token: the token's own, or its sequence's sum or mean."""
    if kind in (CorrectionKind.token_truncate, CorrectionKind.token_mask):
        return log_ratio
    sums = batch.per_row(log_ratio)
    if kind is CorrectionKind.geometric_mask:
        sums = sums / batch.per_row(batch.loss_mask.to(log_ratio.dtype)).clamp(min=1)
    return batch.per_token(sums)

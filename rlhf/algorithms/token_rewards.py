"""Rewards of single tokens, for methods that have the KL to the reference in the reward (Ouyang et al. 2022)."""

from __future__ import annotations

import torch
from torch import Tensor

from rlhf.ops.kl import KLEstimator, kl_divergence
from rlhf.ops.microbatch import MicroBatch


def token_rewards(batch: MicroBatch, *, kl_coef: float, estimator: KLEstimator) -> Tensor:  # [R, L]
    """Return each row's signal at its last chosen token, less `kl_coef` times the KL of every token.

    A coefficient of 0 needs neither old nor reference logprobs.
    """
    last = batch.per_row(batch.loss_mask.float()).long() - 1  # -1 where a row has nothing to learn
    places = torch.arange(max(int(last.max()) + 1, 1) if len(last) else 1)
    rewards = torch.where(places == last.unsqueeze(-1), batch.signals.unsqueeze(-1), 0.0)
    if kl_coef:
        kl = kl_divergence(batch.column("old_logprobs"), batch.column("ref_logprobs"), estimator)
        rewards = rewards - kl_coef * batch.left_align(kl)
    return rewards

"""The clipped policy-gradient loss with a KL penalty: the loss of PPO, GRPO and their variants."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from rlhf.algorithms.base import AlgorithmConfig, Metrics, Normalisation, TokenOutputs
from rlhf.ops.kl import KLEstimator, kl_divergence
from rlhf.ops.log_ratio import bounded_log_ratio
from rlhf.ops.masking import masked_max, masked_sum
from rlhf.ops.microbatch import MicroBatch
from rlhf.ops.policy_loss import clipped_surrogate, clipped_tokens
from rlhf.types import Row


class ClippedLoss:
    """PPO's objective (Schulman et al. 2017, eq. 7) plus `kl_coef` times the KL to the reference."""

    def __init__(self, config: AlgorithmConfig, kl_coef: float) -> None:
        self.config, self.kl_coef = config, kl_coef

    def count(self, rows: Sequence[Row]) -> float:
        if self.config.normalisation is Normalisation.sequences:
            return float(len(rows))
        return float(sum(row.num_loss_tokens for row in rows))

    def __call__(self, outputs: TokenOutputs, batch: MicroBatch) -> tuple[Tensor, Metrics]:
        config, logprobs, mask = self.config, outputs.logprobs, batch.loss_mask
        # A batch that serves one optimiser step has no column of its own: the policy that updates is the old one.
        old = logprobs.detach() if batch.old_logprobs is None else batch.old_logprobs
        advantages = batch.column("advantages")
        clip = {"clip_low": config.clip_low, "clip_high": config.clip_high}
        per_token = clipped_surrogate(logprobs, old, advantages, **clip)
        metrics = {
            "clip_fraction": masked_sum(clipped_tokens(logprobs.detach(), old, advantages, **clip).float(), mask),
            "policy_kl": masked_sum(kl_divergence(old, logprobs.detach(), KLEstimator.k3), mask),
            "entropy": masked_sum(outputs.entropy, mask),
            **rollout_mismatch(old, batch),
        }
        if batch.ref_logprobs is not None:
            kl = kl_divergence(logprobs, batch.ref_logprobs, config.kl_estimator)
            metrics["kl"] = masked_sum(kl.detach(), mask)
            if self.kl_coef:
                per_token = per_token + self.kl_coef * kl
        if config.normalisation is Normalisation.sequences:
            lengths = batch.per_row(mask.float()).clamp(min=1)
            per_token = per_token / batch.per_token(lengths).clamp(min=1)
        return masked_sum(per_token, mask), metrics


def rollout_mismatch(
    old_logprobs: Tensor,  # [B, T], the learner's
    batch: MicroBatch,
) -> Metrics:
    """Measure how far learner and engine disagree on the sampled tokens; 0 but for rounding when on-policy."""
    deviation = bounded_log_ratio(old_logprobs, batch.column("rollout_logprobs")).expm1().abs()
    return {
        "rollout_ratio_deviation": masked_sum(deviation, batch.loss_mask),
        "rollout_ratio_deviation_max": torch.clamp(masked_max(deviation, batch.loss_mask), min=0.0),
    }

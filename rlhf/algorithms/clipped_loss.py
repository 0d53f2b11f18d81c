"""The clipped policy-gradient loss with a KL penalty: the loss of PPO, GRPO and their variants."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from rlhf.algorithms.base import AlgorithmConfig, Metrics, Normalisation, Objective, RowSums, Sums, TokenOutputs
from rlhf.ops.correction import Correction, correction_weights
from rlhf.ops.kl import KLEstimator, kl_divergence
from rlhf.ops.log_ratio import bounded_log_ratio
from rlhf.ops.masking import masked_max, masked_sum
from rlhf.ops.microbatch import MicroBatch
from rlhf.ops.mismatch import effective_share, mismatch_figures, mismatch_sums
from rlhf.ops.policy_loss import cispo_surrogate, clipped_surrogate, clipped_tokens, importance_ratio
from rlhf.types import Row


class ClippedLoss:
    """PPO's objective (Schulman et al. 2017, eq. 7) or CISPO's, times the correction's weights, plus `kl_coef` times
    the KL to the reference, less `entropy_coef` times the entropy.

    Two ratios, as in decoupled PPO (Hilton et al. 2022): the clip bounds new / old, where old is the learner before the
    step's first update, and the correction weighs by old / behaviour, where behaviour is the engine.
    """

    def __init__(self, config: AlgorithmConfig, kl_coef: float, *, max_tokens: int) -> None:
        """`max_tokens`: longest completion, the divisor of `normalisation=constant`."""
        self.config, self.kl_coef, self.max_tokens = config, kl_coef, max_tokens

    def count(self, rows: Sequence[Row]) -> float:
        if self.config.normalisation is Normalisation.tokens:
            return float(sum(row.num_loss_tokens for row in rows))
        each = self.max_tokens if self.config.normalisation is Normalisation.constant else 1
        return float(len(rows) * each)

    def __call__(self, outputs: TokenOutputs, batch: MicroBatch) -> tuple[Tensor, Metrics]:
        config, logprobs, mask = self.config, outputs.logprobs, batch.loss_mask
        # A batch that serves one optimiser step has no column of its own: the policy that updates is the old one.
        old = logprobs.detach() if batch.old_logprobs is None else batch.old_logprobs
        correction = correct(config, old, batch)
        gradient, clipped = self.policy_gradient(logprobs, old, batch)
        per_token = correction.weights * gradient
        metrics: Metrics = {
            "clip_fraction": masked_sum(clipped.float(), mask),
            "policy_kl": masked_sum(kl_divergence(old, logprobs.detach(), KLEstimator.k3), mask),
            "entropy": row_sums(outputs.entropy, batch),
            **mismatch_metrics(old, batch),
            **correction_metrics(correction, batch),
        }
        if config.entropy_coef:
            per_token = per_token - config.entropy_coef * outputs.learnable_entropy
        if batch.ref_logprobs is not None:
            kl = kl_divergence(logprobs, batch.ref_logprobs, config.kl_estimator)
            metrics["kl"] = row_sums(kl.detach(), batch)
            if self.kl_coef:
                per_token = per_token + self.kl_coef * kl
        if config.normalisation is Normalisation.sequences:
            lengths = batch.per_row(mask.float()).clamp(min=1)
            per_token = per_token / batch.per_token(lengths).clamp(min=1)
        return masked_sum(per_token, mask), metrics

    def policy_gradient(self, logprobs: Tensor, old: Tensor, batch: MicroBatch) -> tuple[Tensor, Tensor]:
        """Return each token's loss, and whether its ratio was clipped."""
        config, advantages = self.config, batch.column("advantages")
        ratio = importance_ratio(logprobs, old, batch, config.ratio)
        low, high = config.clip_low, config.clip_high
        if config.objective is Objective.cispo:
            weighed = cispo_surrogate(logprobs, ratio, advantages, clip_low=low, clip_high=high)
            return weighed, (ratio.detach() < 1 - low) | (ratio.detach() > 1 + high)
        surrogate = clipped_surrogate(ratio, advantages, clip_low=low, clip_high=high, dual_clip=config.dual_clip)
        clipped = clipped_tokens(ratio.detach(), advantages, clip_low=low, clip_high=high, dual_clip=config.dual_clip)
        return surrogate, clipped


def correct(config: AlgorithmConfig, old_logprobs: Tensor, batch: MicroBatch) -> Correction:
    """Compute the correction's weights of a micro-batch's tokens."""
    low, high = config.correction.bounds
    log_ratio = old_logprobs - batch.column("rollout_logprobs")
    return correction_weights(log_ratio, batch, config.correction.kind, low=low, high=high)


def row_sums(
    values: Tensor,  # [B, T]
    batch: MicroBatch,
) -> RowSums:
    """Sum the values of each row's loss tokens."""
    return RowSums(batch.per_row(values.masked_fill(~batch.loss_mask, 0.0)))


def mismatch_metrics(
    old_logprobs: Tensor,  # [B, T], the learner's
    batch: MicroBatch,
) -> Metrics:
    """Measure how far learner and engine disagree on the sampled tokens; 0 but for rounding when on-policy.

    `rollout_*` is over all tokens, `engine_*` over those of the current weights, which are not stale.
    """
    mask, rollout = batch.loss_mask, batch.column("rollout_logprobs")
    deviation = bounded_log_ratio(old_logprobs, rollout).expm1().abs()
    metrics: Metrics = {
        "rollout_ratio_deviation": masked_sum(deviation, mask),
        "rollout_ratio_deviation_max": torch.clamp(masked_max(deviation, mask), min=0.0),
    }
    scopes = {"rollout": mask}
    if batch.staleness is not None:
        metrics["staleness"] = masked_sum(batch.staleness, mask)
        scopes["engine"] = mask & (batch.staleness == 0)
    gap = (old_logprobs - rollout).abs()
    for name, tokens in scopes.items():
        metrics[name] = Sums(mismatch_sums(old_logprobs, rollout, tokens), mismatch_figures)
        metrics[f"{name}_gap_max"] = masked_max(gap, tokens)
    return metrics


def correction_metrics(correction: Correction, batch: MicroBatch) -> Metrics:
    """Measure what the correction does: its effective sample size, and the shares it truncates and masks."""
    mask = batch.loss_mask
    weights = correction.weights[mask].double()
    sums = [torch.ones_like(weights), weights, weights.square(), correction.truncated[mask], correction.masked[mask]]
    return {"correction": Sums(torch.stack([each.double().sum() for each in sums]), correction_figures)}


def correction_figures(sums: Sequence[float]) -> Mapping[str, float]:
    num_tokens, total, square, truncated, masked = sums
    if not num_tokens:
        return {}
    ess = effective_share(num_tokens, total, square)
    return {"ess": ess, "truncated": truncated / num_tokens, "masked": masked / num_tokens}

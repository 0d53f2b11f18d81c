"""Estimators of KL(policy || reference) from samples of the policy."""

from enum import StrEnum

from torch import Tensor

from rlhf.ops.log_ratio import bounded_log_ratio


class KLEstimator(StrEnum):
    """Schulman 2020, "Approximating KL divergence": k1 and k3 are unbiased as values, k2 is not."""

    k1 = "k1"
    k2 = "k2"
    k3 = "k3"


def kl_divergence(
    logprobs: Tensor,  # [B, T], of the policy
    ref_logprobs: Tensor,  # [B, T], of the reference
    estimator: KLEstimator,
) -> Tensor:  # [B, T], per token
    """Estimate the KL per token. With r = reference / policy: k1 = -log r, k2 = (log r)^2 / 2, k3 = r - 1 - log r
    (Schulman 2020).

    As a loss on tokens sampled from the policy itself, k2 has the gradient of the KL, k3 that of the reverse KL, and k1
    has zero gradient in expectation: use k1 in a reward, not in a loss. In k3 a log r above 20 counts as 20.
    """
    if estimator is KLEstimator.k1:
        return logprobs - ref_logprobs
    if estimator is KLEstimator.k2:
        return (ref_logprobs - logprobs).square() / 2
    log_ratio = bounded_log_ratio(ref_logprobs, logprobs)
    return log_ratio.expm1() - log_ratio


def adaptive_kl_coef(
    coef: float,
    kl: float,  # nats per token, of this step
    *,
    target: float,  # nats per token
    num_rollouts: int,  # of this step
    horizon: int,  # rollouts
) -> float:
    """Return the next step's KL coefficient: proportional control in log space (Ziegler et al. 2019, section 2.2).

    A KL of 1.2 times the target or more, held for `horizon` rollouts, multiplies the coefficient by about e^0.2.
    """
    error = min(max(kl / target - 1, -0.2), 0.2)
    return coef * (1 + error * num_rollouts / horizon)

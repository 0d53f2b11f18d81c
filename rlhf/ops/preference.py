"""Objectives that learn from preferences, one value per pair or per labelled row.

A log ratio is log pi(y|x) - log pi_ref(y|x) of a whole response in nats, a mean logprob its log pi(y|x) per token.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def dpo_loss(
    chosen: Tensor,  # [P], log ratios
    rejected: Tensor,  # [P], log ratios
    *,
    beta: float,
    label_smoothing: float,
) -> Tensor:  # [P]
    """Direct preference optimisation (Rafailov et al. 2023, eq. 7).

    With `label_smoothing`, the probability that a label is flipped, conservative DPO (Mitchell 2023, "A note on DPO
    with noisy preferences and relationship to IPO").
    """
    margin = beta * (chosen - rejected)
    return -(1 - label_smoothing) * F.logsigmoid(margin) - label_smoothing * F.logsigmoid(-margin)


def ipo_loss(
    chosen: Tensor,  # [P], log ratios
    rejected: Tensor,  # [P], log ratios
    *,
    beta: float,
) -> Tensor:  # [P]
    """Identity preference optimisation (Azar et al. 2023, eq. 17; `beta` is its tau): margins are drawn to 1 / 2 beta.

    Eq. 17 has log ratios of whole responses; its authors' experiments, and TRL, have them per token.
    """
    return (chosen - rejected - 1 / (2 * beta)).square()


def kto_loss(
    log_ratios: Tensor,  # [R]
    desirable: Tensor,  # [R] bool
    baseline: Tensor,  # [R], the reference point z0, without gradient
    *,
    beta: float,
    desirable_weight: float,
    undesirable_weight: float,
) -> Tensor:  # [R]
    """Kahneman-Tversky optimisation (Ethayarajh et al. 2024, section 4.1): lambda_y - v(x, y), where the value of a
    gain over the reference point is a sigmoid and 1 - sigmoid(x) = sigmoid(-x)."""
    gain = beta * (log_ratios - baseline)
    return torch.where(desirable, desirable_weight * torch.sigmoid(-gain), undesirable_weight * torch.sigmoid(gain))


def odds_ratio_loss(
    chosen: Tensor,  # [P], mean logprobs
    rejected: Tensor,  # [P], mean logprobs
    *,
    weight: float,
) -> Tensor:  # [P]
    """The odds ratio term of ORPO (Hong et al. 2024, eq. 7 with the probabilities of eq. 3 and the odds of eq. 4)."""
    return -weight * F.logsigmoid(log_odds(chosen) - log_odds(rejected))


def log_odds(
    logprobs: Tensor,  # [P], negative
) -> Tensor:  # [P]
    """log(p / (1 - p)). A probability that rounds to 1 counts as the largest below it and has no gradient."""
    logprobs = logprobs.clamp(max=-torch.finfo(logprobs.dtype).eps)
    # Each of the two forms of log(1 - p) loses digits where the other is used (Maechler 2012).
    low, high = torch.log1p(-logprobs.exp()), torch.log(-torch.expm1(logprobs))
    return logprobs - torch.where(logprobs < -math.log(2), low, high)


def simpo_loss(
    chosen: Tensor,  # [P], mean logprobs
    rejected: Tensor,  # [P], mean logprobs
    *,
    beta: float,
    gamma: float,
) -> Tensor:  # [P]
    """Simple preference optimisation (Meng et al. 2024, eq. 6): rewards are to differ by more than `gamma`."""
    return -F.logsigmoid(beta * (chosen - rejected) - gamma)


def bradley_terry_loss(
    chosen: Tensor,  # [P], scores
    rejected: Tensor,  # [P], scores
    margins: Tensor | float,  # [P], or 0
    *,
    centring_coef: float,
) -> Tensor:  # [P]
    """Negative log likelihood of the preferences (Bradley and Terry 1952; Ouyang et al. 2022, eq. 1).

    Scores are to differ by `margins` (Touvron et al. 2023, Llama 2, eq. 2). `centring_coef` draws their sum to 0,
    which preferences leave open (Eisenstein et al. 2023, "Helping or herding?").
    """
    return -F.logsigmoid(chosen - rejected - margins) + centring_coef * (chosen + rejected).square()

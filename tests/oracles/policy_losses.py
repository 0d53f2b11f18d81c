"""Policy-gradient losses as their papers write them: token by token, in double precision, gradients by autograd."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from rlhf.algorithms.base import AlgorithmConfig, Normalisation, Objective
from rlhf.ops.correction import CorrectionKind
from rlhf.ops.kl import KLEstimator
from rlhf.ops.policy_loss import Ratio

Kind = CorrectionKind


def weights_of(gaps: Sequence[float], kind: Kind, low: float, high: float) -> tuple[list[float], int, int]:
    """Return the weights of a row's tokens from their log-ratios old / behaviour, and how many were truncated and
    masked."""
    ratios = [math.exp(gap) for gap in gaps]
    whole, mean = math.prod(ratios), math.prod(ratios) ** (1 / len(ratios))
    if kind is Kind.off:
        return [1.0 for _ in ratios], 0, 0
    if kind is Kind.token_truncate:
        return [min(ratio, high) for ratio in ratios], sum(ratio > high for ratio in ratios), 0
    if kind is Kind.token_mask:
        weights = [ratio if low <= ratio <= high else 0.0 for ratio in ratios]
        return weights, 0, sum(weight == 0.0 for weight in weights)
    if kind is Kind.sequence_truncate:
        return [min(whole, high)] * len(ratios), len(ratios) * (whole > high), 0
    kept, weight = (low <= whole <= high, whole) if kind is Kind.sequence_mask else (low <= mean <= high, 1.0)
    return [weight * kept] * len(ratios), 0, len(ratios) * (not kept)


def surrogate(config: AlgorithmConfig, ratio: Tensor, logprob: Tensor, advantage: float) -> Tensor:
    """Return the loss of one token, or of one sequence, with its ratio new / old."""
    low, high = 1 - config.clip_low, 1 + config.clip_high
    if config.objective is Objective.cispo:
        return -min(max(ratio.item(), low), high) * advantage * logprob
    value = torch.minimum(ratio * advantage, ratio.clamp(low, high) * advantage)
    if config.dual_clip is not None and advantage < 0:
        value = torch.maximum(value, torch.tensor(config.dual_clip * advantage, dtype=torch.float64))
    return -value


def row_loss(config: AlgorithmConfig, row: dict[str, Any], num_rows: int, num_tokens: int, max_tokens: int) -> Tensor:
    """Return one row's share of a minibatch's loss; all lists are of its loss tokens."""
    new, old = row["logprobs"], row["old_logprobs"] or row["logprobs"].tolist()
    gaps = [o - b for o, b in zip(old, row["rollout_logprobs"], strict=True)]
    low, high = config.correction.bounds
    weights, _, _ = weights_of(gaps, config.correction.kind, low, high)
    mean = sum(new[t].item() - old[t] for t in range(len(old))) / len(old)
    total = torch.zeros((), dtype=torch.float64)
    for t in range(len(old)):
        ratio = (new[t] - old[t]).exp()
        if config.ratio is Ratio.sequence:  # GSPO-token, eq. 14
            ratio = math.exp(mean) * (new[t] - new[t].detach()).exp()
        token = weights[t] * surrogate(config, ratio, new[t], row["advantages"][t])
        token = token - config.entropy_coef * new[t] ** 2  # the layouts' stand-in for an entropy
        if row["ref_logprobs"] and config.kl_coef:
            log_r = row["ref_logprobs"][t] - new[t]
            kl = {KLEstimator.k1: -log_r, KLEstimator.k2: log_r**2 / 2, KLEstimator.k3: log_r.exp() - 1 - log_r}
            token = token + config.kl_coef * kl[config.kl_estimator]
        total = total + token
    divisors = {
        Normalisation.tokens: num_tokens,
        Normalisation.sequences: len(old) * num_rows,
        Normalisation.sequence_sums: num_rows,
        Normalisation.constant: num_rows * max_tokens,
    }
    return total / divisors[config.normalisation]


def gspo_loss(
    logprobs: Sequence[Tensor],  # G rows [T_i]
    old_logprobs: Sequence[Tensor],  # G rows [T_i]
    advantages: Sequence[float],  # [G]
    *,
    clip_low: float,
    clip_high: float,
) -> Tensor:
    """Return GSPO's loss (Zheng et al. 2025, eq. 5 and 7), whose gradient goes through the sequence's ratio."""
    total = torch.zeros((), dtype=torch.float64)
    for new, old, advantage in zip(logprobs, old_logprobs, advantages, strict=True):
        ratio = (new - old).mean().exp()
        total = total - torch.minimum(ratio * advantage, ratio.clamp(1 - clip_low, 1 + clip_high) * advantage)
    return total / len(logprobs)


def naive_loss(
    config: AlgorithmConfig,
    sequences: Any,  # tests.unit.algorithms.layouts.Sequences
    columns: set[str],
    *,
    max_tokens: int = 1,
) -> tuple[float, list[list[float]]]:
    """Return the loss and its gradient with respect to each token's logprob; 0 where nothing is learnt."""
    loss, gradients = 0.0, []
    num_tokens = sum(map(sum, sequences.mask))
    for i, mask in enumerate(sequences.mask):
        learnt = [t for t, on in enumerate(mask) if on]
        leaf = torch.tensor([sequences.logprobs[i][t] for t in learnt], dtype=torch.float64, requires_grad=True)
        names = ("old_logprobs", "rollout_logprobs", "ref_logprobs", "advantages")
        row = {name: [getattr(sequences, name)[i][t] for t in learnt] if name in columns else [] for name in names}
        share = row_loss(config, {**row, "logprobs": leaf}, len(sequences.mask), num_tokens, max_tokens)
        share.backward()
        loss += share.item()
        gradient = dict(zip(learnt, leaf.grad.tolist(), strict=True))
        gradients.append([gradient.get(t, 0.0) for t in range(len(mask))])
    return loss, gradients

"""Baselines and advantages."""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor


def group_relative_advantages(
    rewards: Sequence[float],  # [K], the rewards of one prompt's rollouts
    *,
    scale_by_std: bool,
) -> list[float]:  # [K]
    """Rewards relative to their group (Shao et al. 2024, DeepSeekMath, section 4.1.2).

    The mean is subtracted; with `scale_by_std` the result is divided by the standard deviation (of the sample, plus
    1e-6). A group of equal rewards gives zeros.
    """
    values = np.asarray(rewards, dtype=np.float64)
    centred = values - values.mean()
    if scale_by_std:
        centred /= values.std(ddof=1) + 1e-6
    return centred.tolist()


def leave_one_out_advantages(
    rewards: Sequence[float],  # [K], the rewards of one prompt's rollouts, at least two
) -> list[float]:  # [K]
    """Rewards relative to the mean of the others' (RLOO, Ahmadian et al. 2024, eq. 8), which depends on no action of
    the rollout itself: K / (K - 1) times the difference to the mean of all."""
    values = np.asarray(rewards, dtype=np.float64)
    return ((values - values.mean()) * len(values) / (len(values) - 1)).tolist()


def returns_to_go(
    rewards: Tensor,  # [R, L], 0 after a row's last token
) -> Tensor:  # [R, L]
    """Sum each token's reward and those after it."""
    return rewards.flip(-1).cumsum(-1).flip(-1)


def generalized_advantages(
    rewards: Tensor,  # [R, L], 0 after a row's last token
    values: Tensor,  # [R, L], 0 after a row's last token
    *,
    gamma: float,
    gae_lambda: float,
) -> Tensor:  # [R, L]
    """Generalised advantage estimation (Schulman et al. 2016, eq. 16); the value after the last token is 0.

    Each row has only the tokens that the policy chose, left-aligned: tokens of the environment between them count as no
    time step. `advantages + values` are the returns a critic learns (TD(lambda)).
    """
    next_values = F.pad(values[:, 1:], (0, 1))
    deltas = rewards + gamma * next_values - values
    advantages = torch.zeros_like(deltas)
    running = deltas.new_zeros(deltas.shape[0])
    for t in reversed(range(deltas.shape[1])):
        running = deltas[:, t] + gamma * gae_lambda * running
        advantages[:, t] = running
    return advantages

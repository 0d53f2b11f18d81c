"""Objectives of a critic per token."""

import torch
from torch import Tensor


def clipped_value_error(
    values: Tensor,  # [B, T]
    old_values: Tensor,  # [B, T], of the critic before this batch's first update
    returns: Tensor,  # [B, T]
    *,
    clip: float | None,
) -> Tensor:  # [B, T], not reduced
    """Half the squared error to the returns; with `clip`, the larger of it and the error of the values clipped to
    within `clip` of the old ones (Schulman et al.'s PPO2 implementation; Huang et al. 2022, "The 37 implementation
    details", detail 9).
    """
    error = (values - returns).square()
    if clip is not None:
        near = torch.clamp(values, old_values - clip, old_values + clip)
        error = torch.maximum(error, (near - returns).square())
    return error / 2


def clipped_values(
    values: Tensor,  # [B, T]
    old_values: Tensor,  # [B, T]
    returns: Tensor,  # [B, T]
    *,
    clip: float,
) -> Tensor:  # [B, T] bool
    """Tokens whose gradient the clip removes: outside the range, where the clipped error is larger."""
    near = torch.clamp(values, old_values - clip, old_values + clip)
    return (near - returns).square() > (values - returns).square()

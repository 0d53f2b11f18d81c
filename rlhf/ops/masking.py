"""Sums over masked tokens."""

from torch import Tensor


def masked_sum(
    values: Tensor,  # [B, T]
    mask: Tensor,  # [B, T] bool
) -> Tensor:  # scalar
    """Sum of `values` where `mask` is True; other values, NaN included, neither count nor get a gradient."""
    return values.masked_fill(~mask, 0.0).sum()


def masked_max(
    values: Tensor,  # [B, T]
    mask: Tensor,  # [B, T] bool
) -> Tensor:  # scalar
    """Largest of `values` where `mask` is True; minus infinity where it is nowhere True."""
    return values.masked_fill(~mask, float("-inf")).max()

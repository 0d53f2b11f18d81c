"""Log-ratios of probabilities, bounded before they are exponentiated."""

from torch import Tensor

MAX_LOG_RATIO = 20.0
"""Nats. e^20 = 4.9e8 is beyond every clip range; fp32 overflows at 88.7, and 0 times infinity is NaN."""


def bounded_log_ratio(
    logprobs: Tensor,  # [B, T], numerator
    other_logprobs: Tensor,  # [B, T], denominator
) -> Tensor:  # [B, T]
    """Return the difference, at most `MAX_LOG_RATIO`: exact in value and gradient up to the bound, without gradient
    beyond it.

    There is no lower bound, since the exponential goes to 0.
    """
    return (logprobs - other_logprobs).clamp(max=MAX_LOG_RATIO)

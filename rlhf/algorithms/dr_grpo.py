"""Dr. GRPO (Liu et al. 2025): GRPO without the divisors that favour long wrong answers and prompts of little variance:
neither the group's standard deviation nor the answer's length, but a constant."""

from __future__ import annotations

from dataclasses import dataclass

from rlhf.algorithms.base import Normalisation
from rlhf.algorithms.grpo import GRPOConfig


@dataclass(kw_only=True, slots=True)
class DrGRPOConfig(GRPOConfig):
    scale_by_std: bool = False
    """Divide by the standard deviation of the group's rewards."""
    normalisation: Normalisation = Normalisation.constant
    """Divisor of the loss; see `algorithm=grpo`. `constant`: sequences times `sampling.max_tokens`."""

"""CISPO (MiniMax 2025, MiniMax-M1): GRPO that clips the weight of a token's gradient and so leaves none without."""

from __future__ import annotations

from dataclasses import dataclass

from rlhf.algorithms.base import Objective
from rlhf.algorithms.grpo import GRPOConfig


@dataclass(kw_only=True, slots=True)
class CISPOConfig(GRPOConfig):
    objective: Objective = Objective.cispo
    """`cispo`: the clipped ratio weighs the gradient of every token. `clip`: a clipped token has none (GRPO)."""
    clip_low: float = 1.0
    """The ratio to the old policy is clipped below 1 - clip_low: with 1 not at all, as in the paper."""
    clip_high: float = 4.0
    """The ratio to the old policy is clipped above 1 + clip_high."""

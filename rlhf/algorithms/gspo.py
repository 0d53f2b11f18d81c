"""Group sequence policy optimisation (Zheng et al. 2025): GRPO whose ratio and clip are those of whole sequences."""

from __future__ import annotations

from dataclasses import dataclass

from rlhf.algorithms.base import Normalisation
from rlhf.algorithms.grpo import GRPOConfig
from rlhf.ops.policy_loss import Ratio


@dataclass(kw_only=True, slots=True)
class GSPOConfig(GRPOConfig):
    ratio: Ratio = Ratio.sequence
    """`sequence`: the geometric mean of the ratios over a row is clipped. `token`: each token's is (GRPO)."""
    clip_low: float = 3e-4
    """The ratio to the old policy is clipped below 1 - clip_low. A sequence's ratio is close to 1."""
    clip_high: float = 4e-4
    """The ratio to the old policy is clipped above 1 + clip_high. A sequence's ratio is close to 1."""
    normalisation: Normalisation = Normalisation.sequences
    """Divisor of the loss; see `algorithm=grpo`. `sequences`: each sequence's length, then their number."""

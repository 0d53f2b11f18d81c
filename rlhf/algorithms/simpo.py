"""Simple preference optimisation, without a reference (Meng et al. 2024)."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import ClassVar

from rlhf.algorithms.base import Loss
from rlhf.algorithms.preference import PairLoss, PreferenceConfig, mean_logprobs
from rlhf.ops.preference import simpo_loss
from rlhf.types import InputError


@dataclass(kw_only=True, slots=True)
class SimPOConfig(PreferenceConfig):
    reads_reference: ClassVar[bool] = False

    beta: float = 2.0
    """Scale of the reward, `beta` times a response's mean logprob. 2 to 10 in the paper."""
    gamma: float = 1.0
    """Margin by which the chosen response's reward is to exceed the rejected one's. 0.3 to 1.6 in the paper."""

    def __post_init__(self) -> None:
        # With slots the zero-argument super() refers to the class before slots were added.
        super(SimPOConfig, self).__post_init__()
        if not 0 <= self.gamma < math.inf:
            raise InputError(f"algorithm.gamma={self.gamma}: must not be negative; 0.3 to 1.6 is usual")

    def build(self) -> Loss:
        return PairLoss(self, mean_logprobs, functools.partial(simpo_loss, beta=self.beta, gamma=self.gamma))

"""Identity preference optimisation (Azar et al. 2023)."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import ClassVar

from rlhf.algorithms.base import Loss
from rlhf.algorithms.preference import PairLoss, PreferenceConfig, log_ratios, mean_log_ratios
from rlhf.ops.preference import ipo_loss


@dataclass(kw_only=True, slots=True)
class IPOConfig(PreferenceConfig):
    """Rewards are not pushed apart without end, as DPO's are, but to a margin of 1/2."""

    reads_reference: ClassVar[bool] = True

    per_token: bool = False
    """Compare log ratios per token, as the authors' experiments and TRL do; wants a larger `beta`, since a margin of
    1 / (2 beta) is then one in nats per token. False: those of whole responses, eq. 17 as published."""

    def build(self) -> Loss:
        measure = mean_log_ratios if self.per_token else log_ratios
        return PairLoss(self, measure, functools.partial(ipo_loss, beta=self.beta))

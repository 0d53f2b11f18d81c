"""Odds ratio preference optimisation: supervised fine-tuning that avoids the rejected side (Hong et al. 2024)."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import ClassVar

from rlhf.algorithms.base import Loss
from rlhf.algorithms.preference import PairLoss, PreferenceConfig, mean_logprobs
from rlhf.ops.preference import odds_ratio_loss


@dataclass(kw_only=True, slots=True)
class ORPOConfig(PreferenceConfig):
    reads_reference: ClassVar[bool] = False

    beta: float = 0.1
    """Weight of the odds ratio beside the likelihood, the paper's lambda. Rewards are `beta` times mean logprobs."""
    sft_coef: float = 1.0
    """Weight of the negative log likelihood per token of the chosen response. 1 in the paper (eq. 6)."""

    def build(self) -> Loss:
        return PairLoss(self, mean_logprobs, functools.partial(odds_ratio_loss, weight=self.beta))

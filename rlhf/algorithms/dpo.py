"""Direct preference optimisation (Rafailov et al. 2023)."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import ClassVar

from rlhf.algorithms.base import Loss
from rlhf.algorithms.preference import PairLoss, PreferenceConfig, log_ratios
from rlhf.ops.preference import dpo_loss
from rlhf.types import InputError


@dataclass(kw_only=True, slots=True)
class DPOConfig(PreferenceConfig):
    reads_reference: ClassVar[bool] = True

    label_smoothing: float = 0.0
    """Probability that a preference is the wrong way round (conservative DPO, Mitchell 2023). Below 0.5."""

    def __post_init__(self) -> None:
        # With slots the zero-argument super() refers to the class before slots were added.
        super(DPOConfig, self).__post_init__()
        if not 0 <= self.label_smoothing < 0.5:
            raise InputError(
                f"algorithm.label_smoothing={self.label_smoothing}: must be at least 0 and below 0.5, where "
                "preferences would say nothing"
            )

    def build(self) -> Loss:
        objective = functools.partial(dpo_loss, beta=self.beta, label_smoothing=self.label_smoothing)
        return PairLoss(self, log_ratios, objective)

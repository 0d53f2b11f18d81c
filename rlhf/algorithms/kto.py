"""Kahneman-Tversky optimisation: learns from single responses that are desirable or not (Ethayarajh et al. 2024)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from rlhf.algorithms.base import Loss, Mean, Metrics, TokenOutputs
from rlhf.algorithms.preference import (
    PreferenceConfig,
    log_ratios,
    mean_logprobs,
    row_means,
    row_sums,
    side_metrics,
)
from rlhf.ops.masking import masked_sum
from rlhf.ops.microbatch import MicroBatch
from rlhf.ops.preference import kto_loss
from rlhf.types import InputError, Row


@dataclass(kw_only=True, slots=True)
class KTOConfig(PreferenceConfig):
    """`sft_coef` concerns the desirable responses."""

    reads_reference: ClassVar[bool] = True

    desirable_weight: float = 1.0
    """Weight of desirable rows. Where labels are not balanced, let it times their number be 1 to 4/3 times
    `undesirable_weight` times the number of the others (Ethayarajh et al. 2024)."""
    undesirable_weight: float = 1.0
    """Weight of undesirable rows."""

    def __post_init__(self) -> None:
        # With slots the zero-argument super() refers to the class before slots were added.
        super(KTOConfig, self).__post_init__()
        for name in ("desirable_weight", "undesirable_weight"):
            if not 0 < getattr(self, name) < math.inf:
                raise InputError(f"algorithm.{name}={getattr(self, name)}: must be positive; 1 is usual")

    def build(self) -> Loss:
        return KTOLoss(self)


class KTOLoss:
    """A mean over rows, each labelled in `signals`. The reference point is the column `kl_baseline`."""

    def __init__(self, config: KTOConfig) -> None:
        self.config = config

    def count(self, rows: Sequence[Row]) -> float:
        return float(len(rows))

    def __call__(self, outputs: TokenOutputs, batch: MicroBatch) -> tuple[Tensor, Metrics]:
        config, desirable = self.config, batch.signals > 0.5
        measured = log_ratios(outputs, batch)
        baseline = row_means(batch.column("kl_baseline"), batch)
        per_row = kto_loss(
            measured,
            desirable,
            baseline,
            beta=config.beta,
            desirable_weight=config.desirable_weight,
            undesirable_weight=config.undesirable_weight,
        )
        if config.sft_coef:
            per_row = per_row - config.sft_coef * desirable * mean_logprobs(outputs, batch)
        rewards, logprobs = config.beta * measured.detach(), row_sums(outputs.logprobs.detach(), batch)
        # Whether a response gained more than responses do on average, as a desirable one should.
        right = (rewards > config.beta * baseline) == desirable
        metrics: Metrics = {
            **side_metrics("reward", rewards[desirable], rewards[~desirable]),
            **side_metrics("logprobs", logprobs[desirable], logprobs[~desirable]),
            "reward_accuracy": Mean(right.float().sum(), batch.num_rows),
            "kl_baseline": Mean(baseline.sum(), batch.num_rows),
            "entropy": masked_sum(outputs.entropy, batch.loss_mask),
        }
        return per_row.sum(), metrics

"""Reward models of whole responses, learnt from pairs (Bradley and Terry 1952; Ouyang et al. 2022)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from rlhf.algorithms.base import Loss, Metrics, ScoreMethodConfig, ScoreOutputs
from rlhf.algorithms.preference import pair_metrics, row_sums, side_metrics, sides
from rlhf.ops.microbatch import MicroBatch
from rlhf.ops.preference import bradley_terry_loss
from rlhf.types import InputError, Row


@dataclass(kw_only=True, slots=True)
class RewardModelConfig(ScoreMethodConfig):
    use_margin: bool = False
    """Scores are to differ by as much as the data's graded qualities of the two sides do (Llama 2)."""
    centring_coef: float = 0.0
    """Weight of the squared sum of a pair's scores, which keeps them around 0 (Eisenstein et al. 2023: 0.01)."""

    def __post_init__(self) -> None:
        if not 0 <= self.centring_coef < math.inf:
            raise InputError(
                f"algorithm.centring_coef={self.centring_coef}: must not be negative; 0.01 is usual, 0 does not centre"
            )

    def build(self) -> Loss:
        return RewardModelLoss(self)


class RewardModelLoss:
    """A mean over pairs, whose scores are read where the loss mask is: once in each row."""

    def __init__(self, config: RewardModelConfig) -> None:
        self.config = config

    def count(self, rows: Sequence[Row]) -> float:
        return len(rows) / 2

    def __call__(self, outputs: ScoreOutputs, batch: MicroBatch) -> tuple[Tensor, Metrics]:
        chosen, rejected = sides(row_sums(outputs.scores, batch))
        better, worse = sides(batch.signals)
        margins = better - worse if self.config.use_margin else 0.0
        per_pair = bradley_terry_loss(chosen, rejected, margins, centring_coef=self.config.centring_coef)
        scores = chosen.detach(), rejected.detach()
        return per_pair.sum(), {**side_metrics("score", *scores), **pair_metrics(*scores)}

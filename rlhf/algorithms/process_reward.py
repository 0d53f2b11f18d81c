"""Reward models of single steps (Uesato et al. 2022; Lightman et al. 2023; with soft labels Wang et al. 2024)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from rlhf.algorithms.base import Loss, Metrics, ScoreMethodConfig, ScoreOutputs
from rlhf.ops.masking import masked_sum
from rlhf.ops.microbatch import MicroBatch
from rlhf.types import Row


@dataclass(kw_only=True, slots=True)
class ProcessRewardConfig(ScoreMethodConfig):
    def build(self) -> Loss:
        return ProcessRewardLoss()


class ProcessRewardLoss:
    """Binary cross entropy, a mean over steps: the score at a step's last token is the log odds that it is right."""

    def count(self, rows: Sequence[Row]) -> float:
        return float(sum(row.num_loss_tokens for row in rows))

    def __call__(self, outputs: ScoreOutputs, batch: MicroBatch) -> tuple[Tensor, Metrics]:
        scores, targets, mask = outputs.scores, batch.column("targets"), batch.loss_mask
        per_token = F.binary_cross_entropy_with_logits(scores, targets, reduction="none")
        right = (scores.detach() > 0) == (targets > 0.5)
        return masked_sum(per_token, mask), {"accuracy": masked_sum(right.float(), mask)}

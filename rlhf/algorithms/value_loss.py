"""The loss of a critic."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from rlhf.algorithms.base import Metrics, ValueOutputs
from rlhf.ops.masking import masked_sum
from rlhf.ops.microbatch import MicroBatch
from rlhf.ops.value_loss import clipped_value_error, clipped_values
from rlhf.types import Row


class ValueLoss:
    """`coef` times half the squared error of the values to the returns, a mean over tokens; clipped as in PPO."""

    def __init__(self, *, clip: float | None, coef: float) -> None:
        self.clip, self.coef = clip, coef

    def count(self, rows: Sequence[Row]) -> float:
        return float(sum(row.num_loss_tokens for row in rows))

    def __call__(self, outputs: ValueOutputs, batch: MicroBatch) -> tuple[Tensor, Metrics]:
        values, old, returns = outputs.values, batch.column("values"), batch.column("returns")
        error = clipped_value_error(values, old, returns, clip=self.clip)
        metrics = {
            "value": masked_sum(values.detach(), batch.loss_mask),
            "value_error": masked_sum((values.detach() - returns).square(), batch.loss_mask),
        }
        if self.clip is not None:
            clipped = clipped_values(values.detach(), old, returns, clip=self.clip)
            metrics["clip_fraction"] = masked_sum(clipped.float(), batch.loss_mask)
        return self.coef * masked_sum(error, batch.loss_mask), metrics

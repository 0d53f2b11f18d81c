"""Supervised fine-tuning: the negative log likelihood of the tokens that are learnt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from rlhf.algorithms.base import Metrics, TokenOutputs
from rlhf.ops.masking import masked_sum
from rlhf.ops.microbatch import MicroBatch
from rlhf.types import Row


@dataclass(kw_only=True, slots=True)
class SFTConfig:
    def build(self) -> SFTLoss:
        return SFTLoss()


class SFTLoss:
    """Cross entropy in nats per token."""

    def count(self, rows: Sequence[Row]) -> float:
        return float(sum(row.num_loss_tokens for row in rows))

    def __call__(self, outputs: TokenOutputs, batch: MicroBatch) -> tuple[Tensor, Metrics]:
        return -masked_sum(outputs.logprobs, batch.loss_mask), {"entropy": masked_sum(outputs.entropy, batch.loss_mask)}

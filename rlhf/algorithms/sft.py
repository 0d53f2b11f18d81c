"""Supervised fine-tuning: the negative log likelihood of the tokens that are learnt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from rlhf.algorithms.base import Mean, Metrics, TokenOutputs
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
        mask = batch.loss_mask
        missed = batch.per_row((mask & ~outputs.first_choice).float())
        metrics: Metrics = {
            "entropy": masked_sum(outputs.entropy, mask),
            "accuracy": masked_sum(outputs.first_choice.float(), mask),
            # Every token greedy decoding's choice: greedy decoding writes just this. Of a label, whether it is right.
            "exact_match": Mean((missed == 0).float().sum(), batch.num_rows),
        }
        return -masked_sum(outputs.logprobs, mask), metrics

"""Parts shared by the methods that learn a policy from preferences."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from rlhf.algorithms.base import Loss, Mean, Metrics, TokenOutputs
from rlhf.ops.masking import masked_sum
from rlhf.ops.microbatch import MicroBatch
from rlhf.types import InputError, Row

Measure = Callable[[TokenOutputs, MicroBatch], Tensor]
"""Function that gives the number a method compares, [R] for R sequences; times `beta` it is the implicit reward."""


@dataclass(kw_only=True, slots=True)
class PreferenceConfig:
    """Keys of every preference method."""

    reads_reference: ClassVar[bool] = False
    """True if the batches need the column `ref_logprobs`."""

    beta: float = 0.1
    """Strength with which the policy is held to the reference; rewards are `beta` times the log ratio to it."""
    sft_coef: float = 0.0
    """Weight of the negative log likelihood per token of the chosen response (Pang et al. 2024), whose probability may
    otherwise fall along with the rejected one's. A mean of each response, then over responses. 0: none."""

    def __post_init__(self) -> None:
        if not 0 < self.beta < math.inf:
            raise InputError(f"algorithm.beta={self.beta}: must be positive; 0.1 is usual, for SimPO 2")
        if not 0 <= self.sft_coef < math.inf:
            raise InputError(f"algorithm.sft_coef={self.sft_coef}: must not be negative; 0 leaves the term out")

    def build(self) -> Loss:
        raise NotImplementedError


class PairLoss:
    """`objective` of what `measure` says of the chosen and the rejected responses, a mean over pairs."""

    def __init__(self, config: PreferenceConfig, measure: Measure, objective: Callable[[Tensor, Tensor], Tensor]):
        self.config, self.measure, self.objective = config, measure, objective

    def count(self, rows: Sequence[Row]) -> float:
        return len(rows) / 2

    def __call__(self, outputs: TokenOutputs, batch: MicroBatch) -> tuple[Tensor, Metrics]:
        measured = self.measure(outputs, batch)
        chosen, rejected = sides(measured)
        per_pair = self.objective(chosen, rejected)
        if self.config.sft_coef:
            likelihood, _ = sides(mean_logprobs(outputs, batch))
            per_pair = per_pair - self.config.sft_coef * likelihood
        rewards = sides(self.config.beta * measured.detach())
        metrics: Metrics = {
            **side_metrics("reward", *rewards),
            **{f"reward_{name}": value for name, value in pair_metrics(*rewards).items()},
            **side_metrics("logprobs", *sides(row_sums(outputs.logprobs.detach(), batch))),
            "entropy": masked_sum(outputs.entropy, batch.loss_mask),
        }
        return per_pair.sum(), metrics


def sides(
    values: Tensor,  # [R], of rows chosen, rejected, chosen, rejected, ...
) -> tuple[Tensor, Tensor]:  # [P], [P]
    """Split values into those of the chosen and of the rejected side of each pair."""
    return values[0::2], values[1::2]


def row_sums(
    values: Tensor,  # [B, T]
    batch: MicroBatch,
) -> Tensor:  # [R]
    """Sum of each row's loss tokens; what lies outside, NaN included, neither counts nor gets a gradient."""
    return batch.per_row(values.masked_fill(~batch.loss_mask, 0.0))


def row_means(
    values: Tensor,  # [B, T]
    batch: MicroBatch,
) -> Tensor:  # [R]
    """Mean of each row's loss tokens."""
    return row_sums(values, batch) / batch.per_row(batch.loss_mask.float()).clamp(min=1)


def log_ratios(outputs: TokenOutputs, batch: MicroBatch) -> Tensor:  # [R]
    """Compute each response's log ratio to the reference, in nats."""
    return row_sums(outputs.logprobs - batch.column("ref_logprobs"), batch)


def mean_log_ratios(outputs: TokenOutputs, batch: MicroBatch) -> Tensor:  # [R]
    """Compute the mean over each response, in nats per token."""
    return row_means(outputs.logprobs - batch.column("ref_logprobs"), batch)


def mean_logprobs(outputs: TokenOutputs, batch: MicroBatch) -> Tensor:  # [R]
    """Compute the mean over each response, in nats per token."""
    return row_means(outputs.logprobs, batch)


def side_metrics(
    name: str,
    chosen: Tensor,  # [P]
    rejected: Tensor,  # [Q]
) -> Metrics:
    """The mean of each side."""
    return {
        f"chosen_{name}": Mean(chosen.sum(), len(chosen)),
        f"rejected_{name}": Mean(rejected.sum(), len(rejected)),
    }


def pair_metrics(
    chosen: Tensor,  # [P]
    rejected: Tensor,  # [P]
) -> Metrics:
    """Measure by how much the chosen side is higher, and how often; ties count half."""
    return {
        "margin": Mean((chosen - rejected).sum(), len(chosen)),
        "accuracy": Mean((torch.sign(chosen - rejected) + 1).sum() / 2, len(chosen)),
    }

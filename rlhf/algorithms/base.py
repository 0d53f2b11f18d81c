"""What a method is made of, and the keys that every policy-gradient method shares."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from torch import Tensor

from rlhf.ops.kl import KLEstimator
from rlhf.ops.microbatch import MicroBatch
from rlhf.types import Group, InputError, Prompt, Row, Sampling

Metrics = dict[str, Tensor]
"""Sums over the loss tokens of a micro-batch, to be divided by their number; a name ending in `_max` is a maximum."""


@dataclass(slots=True)
class TokenOutputs:
    """What a causal language model says of a micro-batch."""

    logprobs: Tensor  # [B, T] float32
    entropy: Tensor  # [B, T] float32, without gradient


class Loss(Protocol):
    def count(self, rows: Sequence[Row]) -> float:
        """What the loss of a minibatch is divided by, from scalars alone: known before the first backward."""

    def __call__(self, outputs: TokenOutputs, batch: MicroBatch) -> tuple[Tensor, Metrics]:
        """The loss summed over a micro-batch, and metrics."""


class Algorithm(Protocol):
    @property
    def loss(self) -> Loss: ...

    def requests(self, prompt: Prompt) -> list[Sampling]:
        """The rollouts to sample for a prompt."""

    def admits(self, group: Group) -> bool:
        """Whether there is something to learn from a group; one that is not admitted is replaced by another prompt."""

    def score_group(self, group: Group) -> list[float]:
        """One scalar per survivor, in their order."""

    def assign_credit(self, batch: MicroBatch) -> MicroBatch:
        """Fill `advantages` from scores and columns, row by row."""


class Normalisation(StrEnum):
    """What a minibatch's loss is divided by: all its loss tokens (DAPO), or each sequence by its own, then by their
    number (GRPO as published)."""

    tokens = "tokens"
    sequences = "sequences"


@dataclass(kw_only=True, slots=True)
class AlgorithmConfig:
    """Keys of every policy-gradient method."""

    clip_low: float = 0.2
    """The ratio to the old policy is clipped below 1 - clip_low. Between 0 and 1."""
    clip_high: float = 0.2
    """The ratio to the old policy is clipped above 1 + clip_high; above clip_low it is DAPO's clip-higher."""
    kl_coef: float = 0.0
    """Weight of the KL to the reference in the loss. 0 with `measure_kl=false` loads no reference."""
    kl_estimator: KLEstimator = KLEstimator.k3
    """k1, k2 or k3 (Schulman 2020); see `rlhf/ops/kl.py` for their gradients."""
    measure_kl: bool = False
    """Load the reference and report the KL to it even where `kl_coef` is 0."""
    normalisation: Normalisation = Normalisation.tokens
    """`tokens`: the loss is a mean over a minibatch's tokens. `sequences`: a mean over sequences of token means."""

    def __post_init__(self) -> None:
        if not 0 < self.clip_low < 1:
            raise InputError(f"algorithm.clip_low={self.clip_low}: must lie between 0 and 1; 0.2 is usual")
        if not 0 < self.clip_high < math.inf:
            raise InputError(f"algorithm.clip_high={self.clip_high}: must be positive; 0.2 to 0.28 is usual")
        if not 0 <= self.kl_coef < math.inf:
            raise InputError(f"algorithm.kl_coef={self.kl_coef}: must not be negative; 0 turns the penalty off")

    def build(self, sampling: Sampling) -> Algorithm:
        """The method, asking for rollouts sampled like `sampling`."""
        raise NotImplementedError

    @property
    def reads_reference(self) -> bool:
        """Whether reference workers are needed."""
        return self.kl_coef > 0 or self.measure_kl

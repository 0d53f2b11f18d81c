"""Interfaces of a method, and the keys that every policy-gradient method shares."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, ClassVar, Protocol

from torch import Tensor

from rlhf.algorithms.correction import CorrectionConfig
from rlhf.ops.kl import KLEstimator
from rlhf.ops.microbatch import MicroBatch
from rlhf.ops.policy_loss import Ratio
from rlhf.types import EpisodeInfo, Group, InputError, Prompt, Row, Sampling


@dataclass(frozen=True, slots=True)
class Mean:
    """A metric that is no mean over tokens."""

    total: Tensor
    weight: float
    """Number of items in the total: pairs, rows."""


@dataclass(frozen=True, slots=True)
class Sums:
    """Sums from which metrics follow once those of all micro-batches and ranks are added: ratios, percentiles."""

    values: Tensor  # [K]
    figures: Callable[[Sequence[float]], Mapping[str, float]]
    """Function of a module that makes the metrics, by the ends of their names."""


@dataclass(frozen=True, slots=True)
class RowSums:
    """A metric that is a mean over loss tokens, reported for each prompt set too where a run has several."""

    values: Tensor  # [R], the sum over each row's loss tokens


Metrics = dict[str, Tensor | Mean | Sums | RowSums]
"""Tensors are sums over the loss tokens of a micro-batch, to be divided by their number; one whose name ends in `_max`
is a maximum."""


class Outputs(Protocol):
    """Outputs of a model for a micro-batch."""

    @property
    def column(self) -> Tensor:
        """[B, T] float32: the column that the model's workers compute of a batch."""


@dataclass(slots=True)
class TokenStatistics:
    """Statistics of a causal language model beside the log probabilities."""

    entropy: Tensor  # [B, T] float32, with a gradient that costs nothing unless a loss uses it
    first_choice: Tensor  # [B, T] bool, whether the token is the most likely one


@dataclass(slots=True)
class TokenOutputs:
    """Outputs of a causal language model for a micro-batch."""

    logprobs: Tensor  # [B, T] float32
    statistics: TokenStatistics | None = None
    """None if only a column was asked for."""

    @property
    def column(self) -> Tensor:
        return self.logprobs

    @property
    def entropy(self) -> Tensor:
        """Entropy as a metric, without gradient."""
        return self.learnable_entropy.detach()

    @property
    def learnable_entropy(self) -> Tensor:
        assert self.statistics is not None, "the readout was asked for a column alone"
        return self.statistics.entropy

    @property
    def first_choice(self) -> Tensor:
        assert self.statistics is not None, "the readout was asked for a column alone"
        return self.statistics.first_choice


@dataclass(slots=True)
class ValueOutputs:
    """Outputs of a critic for a micro-batch."""

    values: Tensor  # [B, T] float32, the return expected before each token was chosen

    @property
    def column(self) -> Tensor:
        return self.values


@dataclass(slots=True)
class ScoreOutputs:
    """Outputs of a reward model for a micro-batch."""

    scores: Tensor  # [B, T] float32, where the loss mask is; 0 elsewhere

    @property
    def column(self) -> Tensor:
        return self.scores


class Loss(Protocol):
    def count(self, rows: Sequence[Row]) -> float:
        """Return the divisor of a minibatch's loss, from scalars alone: known before the first backward."""

    def __call__(self, outputs: Any, batch: MicroBatch) -> tuple[Tensor, Metrics]:
        """The loss summed over a micro-batch, and metrics. `outputs` are those of the model it trains."""


class Algorithm(Protocol):
    credit_columns: tuple[str, ...]
    """The columns that `assign_credit` fills: `advantages`, and with a critic `returns`."""
    whitens: bool
    """True if advantages get zero mean and unit variance over the loss tokens of all ranks."""
    kl_coef: float
    """Weight of the KL to the reference in the next step."""

    @property
    def loss(self) -> Loss:
        """The policy's."""

    @property
    def critic_loss(self) -> Loss:
        """The critic's, where the algorithm has one."""

    def requests(self, prompt: Prompt) -> list[Sampling]:
        """The rollouts to sample for a prompt."""

    def admits(self, group: Group) -> bool:
        """Return whether a group has something to learn from; a rejected one is replaced by another prompt."""

    def trains(self, info: EpisodeInfo) -> bool:
        """Return whether an episode's rows are learnt from."""

    def group_advantages(self, group: Group) -> list[float]:
        """Return one scalar per survivor, in their order: its advantage over the group, or its reward where
        `assign_credit` makes the advantages from it."""

    def assign_credit(self, batch: MicroBatch) -> MicroBatch:
        """Fill `credit_columns` from group advantages and columns, row by row."""

    def adapt(self, kl: float | None, num_rollouts: int) -> None:
        """Adapt to the step's KL to the reference, in nats per token; None without a reference."""

    def state(self) -> Mapping[str, float]:
        """Return the state that a resumed run needs beside the configuration."""

    def restore(self, state: Mapping[str, float]) -> None: ...


class Normalisation(StrEnum):
    """Divisor of a minibatch's loss: all its loss tokens (DAPO); each sequence's own, then the number of sequences
    (GRPO as published); the number of sequences alone; or that number times `sampling.max_tokens` (Dr. GRPO)."""

    tokens = "tokens"
    sequences = "sequences"
    sequence_sums = "sequence_sums"
    constant = "constant"


class Objective(StrEnum):
    """Objectives of the policy gradient."""

    clip = "clip"
    cispo = "cispo"


@dataclass(kw_only=True, slots=True)
class AlgorithmConfig:
    """Keys of every policy-gradient method."""

    min_group_size: ClassVar[int] = 2
    """Rewards that a group must have: 2 where they are each other's baseline, else 1."""

    objective: Objective = Objective.clip
    """`clip`: PPO's, in which a token beyond the clip has no gradient. `cispo`: the clipped ratio is a weight of the
    gradient, so that every token has one."""
    ratio: Ratio = Ratio.token
    """`token`: each token's ratio to the old policy is clipped. `sequence`: the geometric mean over its row (GSPO)."""
    clip_low: float = 0.2
    """The ratio to the old policy is clipped below 1 - clip_low. Between 0 and 1; with 1 it is not clipped below."""
    clip_high: float = 0.2
    """The ratio to the old policy is clipped above 1 + clip_high; above clip_low it is DAPO's clip-higher."""
    dual_clip: float | None = None
    """Largest ratio that counts where the advantage is negative; above 1, often 3 (Ye et al. 2020). None: no bound."""
    correction: CorrectionConfig = field(default_factory=CorrectionConfig)
    """Importance weights for tokens whose engine had other probabilities than the learner."""
    kl_coef: float = 0.0
    """Weight of the KL to the reference. 0 with `measure_kl=false` loads no reference."""
    kl_estimator: KLEstimator = KLEstimator.k3
    """k1, k2 or k3 (Schulman 2020); see `rlhf/ops/kl.py` for their gradients."""
    kl_target: float | None = None
    """KL in nats per token that an adaptive controller steers to, beginning with `kl_coef` (Ziegler et al. 2019).
    None: `kl_coef` stays."""
    kl_horizon: int = 10_000
    """Rollouts over which the adaptive controller changes the coefficient by at most a fifth (a factor of e^0.2)."""
    measure_kl: bool = False
    """Load the reference and report the KL to it even where `kl_coef` is 0."""
    entropy_coef: float = 0.0
    """Weight of a bonus for the entropy of each token's distribution, in nats. 0: none."""
    normalisation: Normalisation = Normalisation.tokens
    """`tokens`: the loss is a mean over a minibatch's tokens. `sequences`: a mean over sequences, the rows of episodes,
    of token means. `sequence_sums`: a mean over sequences of sums. `constant`: the same divided by
    `sampling.max_tokens`."""
    mask_truncated: bool = False
    """Leave episodes that end at their length limit out of the loss (DAPO's overlong filtering). They stay in the
    baseline."""
    group_size: int = 8
    """Episodes per prompt."""

    def __post_init__(self) -> None:
        if not 0 < self.clip_low <= 1:
            raise InputError(f"algorithm.clip_low={self.clip_low}: must lie between 0 and 1; 0.2 is usual")
        if not 0 < self.clip_high < math.inf:
            raise InputError(f"algorithm.clip_high={self.clip_high}: must be positive; 0.2 to 0.28 is usual")
        if self.dual_clip is not None and self.objective is Objective.cispo:
            raise InputError(
                f"algorithm.objective=cispo, algorithm.dual_clip={self.dual_clip}: CISPO bounds every ratio by "
                "clip_high already; set algorithm.dual_clip=null"
            )
        if self.dual_clip is not None and not 1 < self.dual_clip < math.inf:
            raise InputError(f"algorithm.dual_clip={self.dual_clip}: must be above 1; 3 is usual, null sets no bound")
        if not 0 <= self.entropy_coef < math.inf:
            raise InputError(f"algorithm.entropy_coef={self.entropy_coef}: must not be negative; 0 leaves it out")
        if not 0 <= self.kl_coef < math.inf:
            raise InputError(f"algorithm.kl_coef={self.kl_coef}: must not be negative; 0 turns the penalty off")
        if self.kl_target is not None and not (0 < self.kl_target < math.inf and self.kl_coef > 0):
            raise InputError(
                f"algorithm.kl_target={self.kl_target}, algorithm.kl_coef={self.kl_coef}: the controller needs a "
                "positive target and a positive coefficient to begin with; null keeps the coefficient fixed"
            )
        if self.kl_horizon < 1:
            raise InputError(f"algorithm.kl_horizon={self.kl_horizon}: give at least 1 rollout; 10000 is usual")
        if self.group_size < self.min_group_size:
            name = type(self).__name__.removesuffix("Config")
            remedy = f"{name}'s baseline is the mean of a group, set at least {self.min_group_size}"
            if self.min_group_size == 1:
                remedy = "give at least 1 rollout per prompt"
            raise InputError(f"algorithm.group_size={self.group_size}: {remedy}")

    def build(self, sampling: Sampling) -> Algorithm:
        """The method, asking for rollouts sampled like `sampling`."""
        raise NotImplementedError(f"{type(self).__name__} does not define build")

    @property
    def reads_reference(self) -> bool:
        """Return whether reference workers are needed."""
        return self.kl_coef > 0 or self.measure_kl

    @property
    def reads_old_logprobs(self) -> bool:
        """Return whether credit is assigned from the logprobs of the policy before the update."""
        return False

    @property
    def reads_teacher(self) -> bool:
        """Return whether teacher workers are needed."""
        return False

    @property
    def has_critic(self) -> bool:
        """Return whether critic workers are needed."""
        return False


@dataclass(kw_only=True, slots=True)
class ScoreMethodConfig:
    """Ways of training a model with a score head."""

    def build(self) -> Loss:
        raise NotImplementedError

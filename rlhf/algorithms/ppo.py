"""Proximal policy optimisation with a learned critic (Schulman et al. 2017; for language models Ouyang et al. 2022)."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import ClassVar

from rlhf.algorithms.base import AlgorithmConfig, Loss
from rlhf.algorithms.policy_gradient import PolicyGradient
from rlhf.algorithms.token_rewards import token_rewards
from rlhf.algorithms.value_loss import ValueLoss
from rlhf.ops.advantages import generalized_advantages
from rlhf.ops.kl import KLEstimator
from rlhf.ops.microbatch import MicroBatch
from rlhf.types import Group, InputError, Sampling


class KLPlace(StrEnum):
    """Place in which the KL to the reference acts."""

    reward = "reward"
    loss = "loss"


@dataclass(kw_only=True, slots=True)
class PPOConfig(AlgorithmConfig):
    min_group_size: ClassVar[int] = 1

    group_size: int = 1
    """Rollouts per prompt. The critic is the baseline, so one is enough."""
    kl_in: KLPlace = KLPlace.reward
    """`reward`: each token's reward is lowered by its KL (Ouyang et al. 2022). `loss`: the KL is added to the loss."""
    kl_estimator: KLEstimator = KLEstimator.k1
    """k1, k2 or k3 (Schulman 2020). k1 is right in a reward; in a loss its gradient is zero on average."""
    gamma: float = 1.0
    """Discount of the rewards per token. Between 0 and 1."""
    gae_lambda: float = 0.95
    """Generalised advantage estimation: 1 trusts the sampled return, 0 the critic. Between 0 and 1."""
    clip_value: float | None = 0.2
    """The critic's values are clipped to within this of their old ones, in units of the return. None does not clip."""
    value_coef: float = 0.5
    """Weight of the critic's loss. It has an optimiser of its own: under Adam only gradient clipping feels it."""
    whiten_advantages: bool = True
    """Give advantages zero mean and unit variance over all tokens of a training step."""

    def __post_init__(self) -> None:
        # With slots the zero-argument super() refers to the class before slots were added.
        super(PPOConfig, self).__post_init__()
        for name in ("gamma", "gae_lambda"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"algorithm.{name}={getattr(self, name)}: must lie between 0 and 1")
        if self.clip_value is not None and not 0 < self.clip_value < math.inf:
            raise InputError(f"algorithm.clip_value={self.clip_value}: must be positive; null does not clip")
        if not 0 < self.value_coef < math.inf:
            raise InputError(f"algorithm.value_coef={self.value_coef}: must be positive; 0.1 to 0.5 is usual")
        if self.kl_in is KLPlace.loss and self.kl_estimator is KLEstimator.k1 and self.kl_coef > 0:
            raise InputError(
                "algorithm.kl_in=loss, algorithm.kl_estimator=k1: the gradient of k1 is zero on average, so it would "
                "hold nothing back; set algorithm.kl_estimator=k2 or k3"
            )

    def build(self, sampling: Sampling) -> PPO:
        return PPO(self, sampling)

    @property
    def reads_old_logprobs(self) -> bool:
        return self.kl_in is KLPlace.reward and self.kl_coef > 0

    @property
    def has_critic(self) -> bool:
        return True


class PPO(PolicyGradient[PPOConfig]):
    """Each token's advantage is what the rollout got from there on, over what the critic expected."""

    credit_columns: tuple[str, ...] = ("advantages", "returns")

    def __init__(self, config: PPOConfig, sampling: Sampling) -> None:
        super().__init__(config, sampling)
        self.whitens = config.whiten_advantages

    @property
    def loss(self) -> Loss:
        return self.loss_with(self.kl_coef if self.config.kl_in is KLPlace.loss else 0.0)

    @property
    def critic_loss(self) -> Loss:
        return ValueLoss(clip=self.config.clip_value, coef=self.config.value_coef)

    def group_advantages(self, group: Group) -> list[float]:
        return self.rewards(group)

    def assign_credit(self, batch: MicroBatch) -> MicroBatch:
        values = batch.left_align(batch.column("values"))
        rewards = token_rewards(
            batch, kl_coef=self.kl_coef if self.config.reads_old_logprobs else 0.0, estimator=self.config.kl_estimator
        )
        advantages = generalized_advantages(rewards, values, gamma=self.config.gamma, gae_lambda=self.config.gae_lambda)
        return replace(batch, advantages=batch.at_chosen(advantages), returns=batch.at_chosen(advantages + values))

"""REINFORCE++ (Hu et al. 2025): PPO without a critic, whose advantages are whitened over the whole batch."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from rlhf.algorithms.base import AlgorithmConfig, Loss
from rlhf.algorithms.policy_gradient import PolicyGradient
from rlhf.algorithms.token_rewards import token_rewards
from rlhf.ops.advantages import returns_to_go
from rlhf.ops.kl import KLEstimator
from rlhf.ops.microbatch import MicroBatch
from rlhf.types import Group, Sampling


@dataclass(kw_only=True, slots=True)
class ReinforcePPConfig(AlgorithmConfig):
    min_group_size: ClassVar[int] = 1

    group_size: int = 1
    """Rollouts per prompt. The batch is the baseline, so one is enough."""
    kl_estimator: KLEstimator = KLEstimator.k1
    """k1, k2 or k3 (Schulman 2020) of the KL by which each token's reward is lowered."""

    def build(self, sampling: Sampling) -> ReinforcePP:
        return ReinforcePP(self, sampling)

    @property
    def reads_old_logprobs(self) -> bool:
        return self.kl_coef > 0


class ReinforcePP(PolicyGradient[ReinforcePPConfig]):
    """Each token's advantage is the reward less the KL from there on, whitened over all tokens of a training step."""

    whitens = True

    @property
    def loss(self) -> Loss:
        return self.loss_with(0.0)

    def group_advantages(self, group: Group) -> list[float]:
        return self.rewards(group)

    def assign_credit(self, batch: MicroBatch) -> MicroBatch:
        rewards = token_rewards(batch, kl_coef=self.kl_coef, estimator=self.config.kl_estimator)
        return replace(batch, advantages=batch.at_chosen(returns_to_go(rewards)))

"""REINFORCE++-baseline (Hu et al. 2025): rewards relative to their group, whitened over the whole batch; the KL is in
the loss."""

from __future__ import annotations

from dataclasses import dataclass

from rlhf.algorithms.base import AlgorithmConfig
from rlhf.algorithms.policy_gradient import PolicyGradient
from rlhf.ops.advantages import group_relative_advantages
from rlhf.ops.kl import KLEstimator
from rlhf.types import Group, Sampling


@dataclass(kw_only=True, slots=True)
class ReinforcePPBaselineConfig(AlgorithmConfig):
    group_size: int = 8
    """Rollouts per prompt; their mean reward is subtracted. At least 2."""
    kl_estimator: KLEstimator = KLEstimator.k2
    """k1, k2 or k3 (Schulman 2020) of the KL in the loss."""

    def build(self, sampling: Sampling) -> ReinforcePPBaseline:
        return ReinforcePPBaseline(self, sampling)


class ReinforcePPBaseline(PolicyGradient[ReinforcePPBaselineConfig]):
    """Each rollout's advantage is its reward less its group's mean, whitened over all tokens of a training step."""

    whitens = True

    def group_advantages(self, group: Group) -> list[float]:
        return group_relative_advantages(self.rewards(group), scale_by_std=False)

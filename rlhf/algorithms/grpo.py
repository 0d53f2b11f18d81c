"""Group relative policy optimisation (Shao et al. 2024, DeepSeekMath)."""

from __future__ import annotations

from dataclasses import dataclass

from rlhf.algorithms.base import AlgorithmConfig
from rlhf.algorithms.policy_gradient import PolicyGradient
from rlhf.ops.advantages import group_relative_advantages
from rlhf.types import Group, Sampling


@dataclass(kw_only=True, slots=True)
class GRPOConfig(AlgorithmConfig):
    group_size: int = 8
    """Rollouts per prompt; their mean reward is the baseline. At least 2."""
    scale_by_std: bool = True
    """Divide by the standard deviation of the group's rewards. False is Dr. GRPO."""
    dynamic_sampling: bool = False
    """Replace groups whose rewards are all equal, from which nothing can be learnt (Yu et al. 2025, DAPO)."""

    def build(self, sampling: Sampling) -> GRPO:
        return GRPO(self, sampling)


class GRPO(PolicyGradient[GRPOConfig]):
    """Each rollout's advantage is its reward relative to the others of its prompt, the same on all its tokens."""

    def admits(self, group: Group) -> bool:
        rewards = self.rewards(group)
        return super().admits(group) and not (self.config.dynamic_sampling and min(rewards) == max(rewards))

    def group_advantages(self, group: Group) -> list[float]:
        return group_relative_advantages(self.rewards(group), scale_by_std=self.config.scale_by_std)

"""REINFORCE with a leave-one-out baseline (Ahmadian et al. 2024): a rollout is one action, its baseline the others."""

from __future__ import annotations

from dataclasses import dataclass

from rlhf.algorithms.base import AlgorithmConfig, Normalisation
from rlhf.algorithms.policy_gradient import PolicyGradient
from rlhf.ops.advantages import leave_one_out_advantages
from rlhf.types import Group, Sampling


@dataclass(kw_only=True, slots=True)
class RLOOConfig(AlgorithmConfig):
    group_size: int = 4
    """Rollouts per prompt; the mean reward of the others is a rollout's baseline. At least 2."""
    normalisation: Normalisation = Normalisation.sequence_sums
    """Divisor of the loss; see `algorithm=grpo`. `sequence_sums`: the number of sequences, whose tokens are summed."""

    def build(self, sampling: Sampling) -> RLOO:
        return RLOO(self, sampling)


class RLOO(PolicyGradient[RLOOConfig]):
    """Each rollout's advantage is its reward less the mean of the others of its prompt."""

    def group_advantages(self, group: Group) -> list[float]:
        return leave_one_out_advantages(self.rewards(group))

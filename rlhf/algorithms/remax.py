"""ReMax (Li et al. 2024): REINFORCE whose baseline is the reward of the greedy answer."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from rlhf.algorithms.base import AlgorithmConfig, Normalisation
from rlhf.algorithms.policy_gradient import PolicyGradient
from rlhf.types import Group, Prompt, Sampling, Score


@dataclass(kw_only=True, slots=True)
class ReMaxConfig(AlgorithmConfig):
    min_group_size: ClassVar[int] = 1

    group_size: int = 1
    """Rollouts per prompt that are learnt from, beside the greedy one."""
    normalisation: Normalisation = Normalisation.sequence_sums
    """Divisor of the loss; see `algorithm=grpo`. `sequence_sums`: the number of sequences, whose tokens are summed."""

    def build(self, sampling: Sampling) -> ReMax:
        return ReMax(self, sampling)


class ReMax(PolicyGradient[ReMaxConfig]):
    """Each rollout's advantage is its reward less that of the greedy episode, which is not learnt from."""

    def requests(self, prompt: Prompt) -> list[Sampling]:
        return [*super().requests(prompt), replace(self.sampling, temperature=0.0, trained=False)]

    def admits(self, group: Group) -> bool:
        return super().admits(group) and isinstance(group.infos[-1].score, Score)

    def group_advantages(self, group: Group) -> list[float]:
        *rewards, greedy = self.rewards(group)
        return [*(reward - greedy for reward in rewards), 0.0]

"""Group relative policy optimisation (Shao et al. 2024, DeepSeekMath)."""

from __future__ import annotations

from dataclasses import dataclass

from rlhf.algorithms.base import AlgorithmConfig
from rlhf.algorithms.policy_gradient import PolicyGradient
from rlhf.ops.advantages import group_relative_advantages
from rlhf.types import Group, InputError, RunError, Sampling, Score


@dataclass(kw_only=True, slots=True)
class GRPOConfig(AlgorithmConfig):
    group_size: int = 8
    """Rollouts per prompt; their mean reward is the baseline. At least 2."""
    scale_by_std: bool = True
    """Divide by the standard deviation of the group's rewards."""
    dynamic_sampling: bool = False
    """Replace groups whose rewards are all equal, from which nothing can be learnt (Yu et al. 2025, DAPO)."""
    dynamic_sampling_part: str | None = None
    """The part of the reward that dynamic sampling compares: a function's name, or `reward_model`. None: the whole
    reward."""

    def __post_init__(self) -> None:
        # With slots the zero-argument super() refers to the class before slots were added.
        super(GRPOConfig, self).__post_init__()
        if self.dynamic_sampling_part is not None and not self.dynamic_sampling:
            raise InputError(
                f"algorithm.dynamic_sampling_part={self.dynamic_sampling_part}, algorithm.dynamic_sampling=false: "
                "nothing is compared; set algorithm.dynamic_sampling=true, or leave the part null"
            )

    def build(self, sampling: Sampling) -> GRPO:
        return GRPO(self, sampling)


class GRPO(PolicyGradient[GRPOConfig]):
    """Each rollout's advantage is its reward relative to the others of its prompt, the same on all its tokens."""

    def admits(self, group: Group) -> bool:
        if not super().admits(group):
            return False
        compared = self.compared(group) if self.config.dynamic_sampling else []
        return not compared or min(compared) < max(compared)

    def compared(self, group: Group) -> list[float]:
        """Return the survivors' rewards that dynamic sampling compares."""
        part, scores = self.config.dynamic_sampling_part, [info.score for info in group.infos]
        survivors = [score for score in scores if isinstance(score, Score)]
        if part is None:
            return [score.value for score in survivors]
        for score in survivors:
            if part not in score.parts:
                raise RunError(
                    f"algorithm.dynamic_sampling_part={part}: an episode of prompt {group.prompt.id} has no such part, "
                    f"only {', '.join(score.parts) or 'none'}; name one that every score has, and start again"
                )
        return [score.parts[part] for score in survivors]

    def group_advantages(self, group: Group) -> list[float]:
        return group_relative_advantages(self.rewards(group), scale_by_std=self.config.scale_by_std)

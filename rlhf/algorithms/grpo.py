"""Group relative policy optimisation (Shao et al. 2024, DeepSeekMath)."""

from __future__ import annotations

from dataclasses import dataclass, replace

from rlhf.algorithms.base import AlgorithmConfig, KLControl, Loss
from rlhf.algorithms.clipped_loss import ClippedLoss
from rlhf.ops.advantages import group_relative_advantages
from rlhf.ops.microbatch import MicroBatch
from rlhf.types import Group, InputError, Prompt, Sampling, Score


@dataclass(kw_only=True, slots=True)
class GRPOConfig(AlgorithmConfig):
    group_size: int = 8
    """Rollouts per prompt; their mean reward is the baseline. At least 2."""
    scale_by_std: bool = True
    """Divide by the standard deviation of the group's rewards. False is Dr. GRPO."""
    dynamic_sampling: bool = False
    """Replace groups whose rewards are all equal, from which nothing can be learnt (Yu et al. 2025, DAPO)."""

    def __post_init__(self) -> None:
        # With slots the zero-argument super() refers to the class before slots were added.
        super(GRPOConfig, self).__post_init__()
        if self.group_size < 2:
            raise InputError(
                f"algorithm.group_size={self.group_size}: GRPO's baseline is the mean of a group, set at least 2"
            )

    def build(self, sampling: Sampling) -> GRPO:
        return GRPO(self, sampling)


class GRPO(KLControl):
    """Each rollout's advantage is its reward relative to the others of its prompt, the same on all its tokens."""

    credit_columns: tuple[str, ...] = ("advantages",)
    whitens = False

    def __init__(self, config: GRPOConfig, sampling: Sampling) -> None:
        super().__init__(config)
        self.config, self.sampling = config, sampling

    @property
    def loss(self) -> Loss:
        return ClippedLoss(self.config, self.kl_coef)

    @property
    def critic_loss(self) -> Loss:
        raise AssertionError("GRPO has no critic")

    def requests(self, prompt: Prompt) -> list[Sampling]:
        return [self.sampling] * self.config.group_size

    def admits(self, group: Group) -> bool:
        rewards = self.rewards(group)
        return len(rewards) >= 2 and not (self.config.dynamic_sampling and min(rewards) == max(rewards))

    def group_advantages(self, group: Group) -> list[float]:
        return group_relative_advantages(self.rewards(group), scale_by_std=self.config.scale_by_std)

    def rewards(self, group: Group) -> list[float]:
        """Return the rewards of the survivors."""
        return [info.score.value for info in group.infos if isinstance(info.score, Score)]

    def assign_credit(self, batch: MicroBatch) -> MicroBatch:
        return replace(batch, advantages=batch.per_token(batch.signals) * batch.loss_mask)

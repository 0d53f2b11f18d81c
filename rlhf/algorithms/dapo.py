"""DAPO (Yu et al. 2025): GRPO with a higher upper clip, dynamic sampling, a mean over tokens, and a soft penalty for
long answers; truncated ones are left out of the loss."""

from __future__ import annotations

from dataclasses import dataclass

from rlhf.algorithms.grpo import GRPO, GRPOConfig
from rlhf.ops.overlong import soft_overlong_penalty
from rlhf.types import Group, InputError, Sampling


@dataclass(kw_only=True, slots=True)
class DAPOConfig(GRPOConfig):
    clip_high: float = 0.28
    """The ratio to the old policy is clipped above 1 + clip_high; below by `clip_low`."""
    dynamic_sampling: bool = True
    """Replace groups whose rewards are all equal, before the penalty for length."""
    mask_truncated: bool = True
    """Leave episodes that end at their length limit out of the loss. They stay in the baseline."""
    overlong_buffer: float = 0.2
    """Share of `sampling.max_tokens`, at its end, over which the reward falls linearly by up to 1; all tokens that the
    policy chose in an episode count. 0: no penalty."""

    def __post_init__(self) -> None:
        # With slots the zero-argument super() refers to the class before slots were added.
        super(DAPOConfig, self).__post_init__()
        if not 0 <= self.overlong_buffer <= 1:
            raise InputError(
                f"algorithm.overlong_buffer={self.overlong_buffer}: must lie between 0 and 1; 0.2 is the paper's, 0 "
                "sets no penalty"
            )

    def build(self, sampling: Sampling) -> DAPO:
        return DAPO(self, sampling)


class DAPO(GRPO):
    """GRPO on rewards less the penalty for length."""

    def __init__(self, config: DAPOConfig, sampling: Sampling) -> None:
        super().__init__(config, sampling)
        self.buffer_tokens = round(config.overlong_buffer * sampling.max_tokens)

    def rewards(self, group: Group) -> list[float]:
        rewards = super().rewards(group)
        if self.buffer_tokens == 0:
            return rewards
        lengths = [group.infos[index].num_loss_tokens for index in group.survivors]
        limits = {"max_tokens": self.sampling.max_tokens, "buffer_tokens": self.buffer_tokens}
        return [
            reward + soft_overlong_penalty(length, **limits) for reward, length in zip(rewards, lengths, strict=True)
        ]

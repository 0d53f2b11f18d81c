"""Policy-gradient methods: what they share, so that one of them says only in which points it differs."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import replace
from typing import Generic, TypeVar

from rlhf.algorithms.base import AlgorithmConfig, Loss
from rlhf.algorithms.clipped_loss import ClippedLoss
from rlhf.ops.kl import adaptive_kl_coef
from rlhf.ops.microbatch import MicroBatch
from rlhf.types import EpisodeInfo, Group, Prompt, Sampling, Score

ConfigT = TypeVar("ConfigT", bound=AlgorithmConfig)


class PolicyGradient(ABC, Generic[ConfigT]):
    """`group_size` rollouts per prompt, one advantage per rollout on all its tokens, PPO's clipped loss, no critic, and
    a KL coefficient that is fixed or adaptive. A method defines `group_advantages`, and whatever else is its own."""

    credit_columns: tuple[str, ...] = ("advantages",)
    whitens = False

    def __init__(self, config: ConfigT, sampling: Sampling) -> None:
        self.config, self.sampling = config, sampling
        self.kl_coef = config.kl_coef

    @property
    def loss(self) -> Loss:
        return self.loss_with(self.kl_coef)

    def loss_with(self, kl_coef: float) -> Loss:
        """Return the policy's loss with a weight of the KL to the reference: 0 if the method has it in the reward."""
        return ClippedLoss(self.config, kl_coef, max_tokens=self.sampling.max_tokens)

    @property
    def critic_loss(self) -> Loss:
        raise AssertionError(f"{type(self).__name__} has no critic")

    def requests(self, prompt: Prompt) -> list[Sampling]:
        return [self.sampling] * self.config.group_size

    def admits(self, group: Group) -> bool:
        survivors = [group.infos[index] for index in group.survivors]
        return len(survivors) >= self.config.min_group_size and any(map(self.trains, survivors))

    def trains(self, info: EpisodeInfo) -> bool:
        return info.trained and not (self.config.mask_truncated and info.stop == "length")

    @abstractmethod
    def group_advantages(self, group: Group) -> list[float]:
        """Return one number per survivor, in their order."""

    def rewards(self, group: Group) -> list[float]:
        """Return the rewards of the survivors."""
        return [info.score.value for info in group.infos if isinstance(info.score, Score)]

    def assign_credit(self, batch: MicroBatch) -> MicroBatch:
        return replace(batch, advantages=batch.per_token(batch.signals) * batch.loss_mask)

    def adapt(self, kl: float | None, num_rollouts: int) -> None:
        """Steer the KL coefficient. A step whose KL is not finite was skipped, and changes nothing."""
        target, horizon = self.config.kl_target, self.config.kl_horizon
        if target is not None and kl is not None and math.isfinite(kl):
            self.kl_coef = adaptive_kl_coef(self.kl_coef, kl, target=target, num_rollouts=num_rollouts, horizon=horizon)

    def state(self) -> Mapping[str, float]:
        return {"kl_coef": self.kl_coef}

    def restore(self, state: Mapping[str, float]) -> None:
        self.kl_coef = state["kl_coef"]

"""Distillation on the student's own samples, by a teacher's logprobs of them (Agarwal et al. 2024, GKD; Gu et al. 2024,
MiniLLM; Thinking Machines 2025, "On-Policy Distillation")."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from rlhf.algorithms.base import AlgorithmConfig, Loss, Metrics, TokenOutputs
from rlhf.algorithms.clipped_loss import ClippedLoss
from rlhf.algorithms.policy_gradient import PolicyGradient
from rlhf.ops.advantages import generalized_advantages, leave_one_out_advantages
from rlhf.ops.kl import KLEstimator, kl_divergence
from rlhf.ops.masking import masked_sum
from rlhf.ops.microbatch import MicroBatch
from rlhf.types import Group, InputError, Sampling


@dataclass(kw_only=True, slots=True)
class OnPolicyDistillationConfig(AlgorithmConfig):
    min_group_size: ClassVar[int] = 1

    group_size: int = 4
    """Rollouts per prompt. The teacher judges each token, so one is enough; with `reward_coef` at least 2."""
    gamma: float = 0.0
    """Discount of the log-ratios of later tokens. 0: a token answers for its own alone, as in the KL of each token's
    distribution. 1: for all that follow, as in the KL of whole sequences. Between 0 and 1."""
    reward_coef: float = 0.0
    """Weight of the reward relative to the group, added to the advantage of every token of a rollout. 0: pure
    distillation, in which the reward is only measured."""

    def __post_init__(self) -> None:
        # With slots the zero-argument super() refers to the class before slots were added.
        super(OnPolicyDistillationConfig, self).__post_init__()
        if not 0 <= self.gamma <= 1:
            raise InputError(f"algorithm.gamma={self.gamma}: must lie between 0 and 1; 0 is usual")
        if not 0 <= self.reward_coef < math.inf:
            raise InputError(f"algorithm.reward_coef={self.reward_coef}: must not be negative; 0 leaves the reward out")
        if self.reward_coef and self.group_size < 2:
            raise InputError(
                f"algorithm.reward_coef={self.reward_coef}, algorithm.group_size={self.group_size}: a reward's "
                "baseline is the mean of the others of its group; set algorithm.group_size to at least 2, or the "
                "coefficient to 0"
            )

    def build(self, sampling: Sampling) -> OnPolicyDistillation:
        return OnPolicyDistillation(self, sampling)

    @property
    def reads_teacher(self) -> bool:
        return True

    @property
    def reads_old_logprobs(self) -> bool:
        return True


class OnPolicyDistillation(PolicyGradient[OnPolicyDistillationConfig]):
    """Each token's advantage is the log of how much likelier it is for the teacher than for the student, whose mean is
    minus the reverse KL; with `reward_coef` the rollout's reward relative to its group is added."""

    def admits(self, group: Group) -> bool:
        return super().admits(group) and (not self.config.reward_coef or len(group.survivors) > 1)

    def loss_with(self, kl_coef: float) -> Loss:
        return DistillationLoss(self.config, kl_coef, max_tokens=self.sampling.max_tokens)

    def group_advantages(self, group: Group) -> list[float]:
        coef, rewards = self.config.reward_coef, self.rewards(group)
        return [coef * each for each in leave_one_out_advantages(rewards)] if coef else [0.0] * len(rewards)

    def assign_credit(self, batch: MicroBatch) -> MicroBatch:
        log_ratio = batch.left_align(batch.column("teacher_logprobs") - batch.column("old_logprobs"))
        # Without values and with lambda 1 the advantages are discounted returns.
        returns = generalized_advantages(
            log_ratio, torch.zeros_like(log_ratio), gamma=self.config.gamma, gae_lambda=1.0
        )
        return replace(batch, advantages=batch.at_chosen(returns) + batch.per_token(batch.signals) * batch.loss_mask)


class DistillationLoss(ClippedLoss):
    """The clipped loss, with the KL to the teacher as metrics: k1 and k3 (Schulman 2020), nats per token."""

    def __call__(self, outputs: TokenOutputs, batch: MicroBatch) -> tuple[Tensor, Metrics]:
        loss_sum, metrics = super().__call__(outputs, batch)
        student, teacher = outputs.logprobs.detach(), batch.column("teacher_logprobs")
        for estimator in (KLEstimator.k1, KLEstimator.k3):
            kl = kl_divergence(student, teacher, estimator)
            metrics[f"teacher_kl_{estimator.value}"] = masked_sum(kl, batch.loss_mask)
        return loss_sum, metrics

"""The error of the policy gradient at known log-ratios, for every correction, against the exact gradient.

    PYTHONPATH=$PWD python benchmarks/correction_error.py

A policy of independent softmax tables, one for each position, answers with `length` tokens; the behaviour policy has
the same logits plus normal noise, whose size is chosen so that the log-ratio of a sampled token has the given standard
deviation. Sequences are enumerated, not sampled: the error is bias alone, the norm of the difference to the true
gradient over the norm of the true gradient, a mean over problems. Losses and weights are those of the training.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from rlhf.algorithms.base import AlgorithmConfig, Normalisation, TokenOutputs, TokenStatistics
from rlhf.algorithms.clipped_loss import ClippedLoss
from rlhf.algorithms.correction import CorrectionConfig
from rlhf.ops.correction import CorrectionKind
from rlhf.ops.microbatch import MicroBatch
from rlhf.stages.console import CONSOLE, show_table

SPREADS = (0.1, 0.3, 0.6)
"""Standard deviations of a token's log-ratio."""
PROBLEMS = ((64, 1), (8, 4))
"""Size of the vocabulary, tokens of an answer."""
NUM_SEEDS = 20
BOUNDS: dict[CorrectionKind, dict[str, float]] = {
    CorrectionKind.off: {},
    CorrectionKind.token_truncate: {"high": 2.0},
    CorrectionKind.token_mask: {"low": 0.5, "high": 5.0},
    CorrectionKind.sequence_truncate: {"high": 2.0},
    CorrectionKind.sequence_mask: {"low": 0.5, "high": 2.0},
    CorrectionKind.geometric_mask: {"low": 0.8, "high": 1.25},
}


class Problem:
    """A policy, a behaviour policy, and every answer with its advantage."""

    def __init__(self, seed: int, vocabulary: int, length: int, spread: float) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.logits = torch.randn(length, vocabulary, generator=generator, dtype=torch.float64)
        noise = torch.randn(length, vocabulary, generator=generator, dtype=torch.float64)
        self.behaviour = self.logits + noise * self.scale(noise, spread)
        self.answers = torch.tensor(list(itertools.product(range(vocabulary), repeat=length)))  # [N, L]
        rewards = torch.randn(len(self.answers), generator=generator, dtype=torch.float64)
        self.advantages = rewards - (self.probability(self.logits) * rewards).sum()

    def scale(self, noise: Tensor, spread: float) -> float:
        """Return the factor of the noise at which a sampled token's log-ratio deviates by `spread`, by bisection."""
        low, high = 0.0, 10.0 * spread
        for _ in range(40):
            middle = (low + high) / 2
            other = (self.logits + middle * noise).log_softmax(-1)
            gap = self.logits.log_softmax(-1) - other
            mean = (other.exp() * gap).sum(-1, keepdim=True)
            deviation = (other.exp() * (gap - mean).square()).sum(-1).mean().sqrt().item()
            low, high = (middle, high) if deviation < spread else (low, middle)
        return low

    def logprobs(self, logits: Tensor) -> Tensor:  # [N, L]
        return logits.log_softmax(-1)[torch.arange(len(logits)), self.answers]

    def probability(self, logits: Tensor) -> Tensor:  # [N]
        return self.logprobs(logits).sum(-1).exp()

    def true_gradient(self) -> Tensor:
        """Return the gradient of the expected advantage, through the probability of every answer."""
        leaf = self.logits.clone().requires_grad_()
        (self.probability(leaf) * self.advantages).sum().backward()
        assert leaf.grad is not None
        return leaf.grad

    def gradient(self, config: AlgorithmConfig) -> Tensor:
        """Return the expectation of the loss's gradient over answers of the behaviour policy, negated."""
        leaf = self.logits.clone().requires_grad_()
        weights = self.probability(self.behaviour)
        outputs, batch = self.lay_out(leaf, (self.advantages * weights)[:, None])
        loss, _ = ClippedLoss(config, 0.0, max_tokens=1)(outputs, batch)
        (-loss).backward()
        assert leaf.grad is not None
        return leaf.grad

    def lay_out(self, logits: Tensor, advantages: Tensor) -> tuple[TokenOutputs, MicroBatch]:
        """Lay the answers out as a micro-batch: a token of the prompt, then the answer. The loss is linear in the
        advantages, which hold the answers' probabilities under the behaviour policy."""
        num_answers, length = self.answers.shape
        mask = np.arange(length + 1) > 0
        batch = MicroBatch.from_rows(
            [np.zeros(length + 1, dtype=np.int32)] * num_answers, [mask] * num_answers, [0.0] * num_answers, {},
            packed=False,
        )  # fmt: skip
        shift = torch.nn.functional.pad
        batch.rollout_logprobs = shift(self.logprobs(self.behaviour), (1, 0))
        batch.advantages = shift(advantages.expand(-1, length), (1, 0))
        logprobs = shift(self.logprobs(logits), (1, 0))
        still = torch.zeros_like(logprobs)
        return TokenOutputs(logprobs, TokenStatistics(entropy=still, first_choice=still.bool())), batch


def error(problem: Problem, kind: CorrectionKind) -> float:
    config = AlgorithmConfig(
        normalisation=Normalisation.sequence_sums, correction=CorrectionConfig(kind=kind, **BOUNDS[kind])
    )
    true = problem.true_gradient()
    return ((problem.gradient(config) - true).norm() / true.norm()).item()


def row(kind: CorrectionKind, vocabulary: int, length: int) -> Sequence[str]:
    errors = [
        math.fsum(error(Problem(seed, vocabulary, length, spread), kind) for seed in range(NUM_SEEDS)) / NUM_SEEDS
        for spread in SPREADS
    ]
    bounds = ", ".join(f"{name} {value:g}" for name, value in BOUNDS[kind].items())
    return (kind.value, bounds, *(f"{100 * each:.0f} %" for each in errors))


def main() -> None:
    for vocabulary, length in PROBLEMS:
        columns = ("correction", "bounds", *(f"sd {spread}" for spread in SPREADS))
        title = f"Error of the gradient, {length} tokens of {vocabulary} possible each"
        show_table(title, columns, [row(kind, vocabulary, length) for kind in BOUNDS])
    CONSOLE.print(f"bias alone, mean of {NUM_SEEDS} problems; sd: standard deviation of a sampled token's log-ratio")


if __name__ == "__main__":
    main()

"""Sequences with one number per token, laid out as micro-batches in any split, and losses of them."""

import random
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from rlhf.algorithms.base import Loss, Mean, RowSums, Sums, TokenOutputs, TokenStatistics
from rlhf.ops.microbatch import MicroBatch
from rlhf.types import Row

COLUMNS = ("rollout_logprobs", "old_logprobs", "ref_logprobs", "advantages")


LIKELY = -1.0
"""A token of a higher logprob counts as the model's first choice."""


@dataclass
class Sequences:
    """R sequences; every field but `mask` and `scores` a list of floats per sequence, zero where nothing is learnt."""

    mask: list[list[bool]]
    logprobs: list[list[float]]
    rollout_logprobs: list[list[float]]
    old_logprobs: list[list[float]]
    ref_logprobs: list[list[float]]
    advantages: list[list[float]]
    kl_baseline: list[list[float]]
    targets: list[list[float]]
    scores: list[float]
    teacher_logprobs: list[list[float]]

    @property
    def rows(self) -> list[Row]:
        return [
            Row(group=0, index=i, num_tokens=len(mask), num_loss_tokens=sum(mask)) for i, mask in enumerate(self.mask)
        ]


def make_sequences(seed: int, lengths: Sequence[int], mask: list[list[bool]] | None = None) -> Sequences:
    """Ratios inside and outside the usual clip, advantages of both signs. `mask` is drawn where it is not given."""
    generator = random.Random(seed)
    mask = mask or [[t > 0 and generator.random() < 0.7 for t in range(length)] for length in lengths]

    def draw(low: float, high: float) -> list[list[float]]:
        return [[generator.uniform(low, high) if on else 0.0 for on in row] for row in mask]

    logprobs = draw(-4, -0.1)

    def near() -> list[list[float]]:
        return [
            [value + generator.uniform(-0.6, 0.6) if on else 0.0 for value, on in zip(*pair, strict=True)]
            for pair in zip(logprobs, mask, strict=True)
        ]

    return Sequences(
        mask,
        logprobs,
        rollout_logprobs=near(),
        old_logprobs=near(),
        ref_logprobs=near(),
        advantages=draw(-2, 2),
        kl_baseline=[[0.3] * length for length in lengths],
        targets=draw(0, 1),
        scores=[generator.choice([0.0, 1.0]) for _ in lengths],
        teacher_logprobs=near(),
    )


def lay_out(
    sequences: Sequences, chosen: Sequence[int], columns: Sequence[str], *, packed: bool
) -> tuple[MicroBatch, TokenOutputs, list[Tensor]]:
    """The chosen sequences as a micro-batch, outputs of the model for it, and their logprobs as leaves per sequence."""
    flat = {
        name: np.array([value for i in chosen for value in getattr(sequences, name)[i]], dtype=np.float32)
        for name in columns
    }
    masks = [np.array(sequences.mask[i]) for i in chosen]
    ids = [np.zeros(len(mask), dtype=np.int32) for mask in masks]
    batch = MicroBatch.from_rows(ids, masks, [sequences.scores[i] for i in chosen], flat, packed=packed)
    leaves = [torch.tensor(sequences.logprobs[i], requires_grad=True) for i in chosen]
    logprobs = (
        torch.cat(leaves).unsqueeze(0)
        if packed
        else torch.nn.utils.rnn.pad_sequence(leaves, batch_first=True, padding_value=-9.0)
    )
    statistics = TokenStatistics(entropy=logprobs.square(), first_choice=logprobs > LIKELY)
    outputs = TokenOutputs(logprobs, statistics)
    return batch, outputs, leaves


def loss_and_gradient(
    loss: Loss, sequences: Sequences, splits: Sequence[Sequence[int]], columns: Sequence[str], *, packed: bool
) -> tuple[float, list[list[float]], dict[str, float]]:
    """Sum of the losses of micro-batches over the count, its gradient per sequence, and the metrics summed."""
    count = loss.count(sequences.rows)
    total, gradients, sums, vectors = 0.0, [[] for _ in sequences.mask], {}, {}
    for chosen in splits:
        batch, outputs, leaves = lay_out(sequences, chosen, columns, packed=packed)
        loss_sum, metrics = loss(outputs, batch)
        (loss_sum / count).backward()
        total += loss_sum.item() / count
        for i, leaf in zip(chosen, leaves, strict=True):
            gradients[i] = leaf.grad.tolist()
        for name, value in metrics.items():
            if isinstance(value, Sums):
                together = vectors.get(name, torch.zeros_like(value.values)) + value.values
                vectors[name] = together
                sums |= {f"{name}_{end}": number for end, number in value.figures(together.tolist()).items()}
                continue
            together = max if name.endswith("_max") else lambda a, b: a + b
            number = as_sum(value).item()
            sums[name] = together(sums[name], number) if name in sums else number
    return total, gradients, sums


def as_sum(metric: Mean | RowSums | Tensor) -> Tensor:
    if isinstance(metric, RowSums):
        return metric.values.sum()
    return metric.total if isinstance(metric, Mean) else metric

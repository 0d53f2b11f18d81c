"""A single process, one row at a time, plain AdamW: what offline methods on sharded learners must equal."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rlhf.types import TrainingRow, Unit

Says = Callable[[TrainingRow], Tensor]
"""The model on a row: a tensor [T], 0 where the loss mask is False."""


def logprobs_of(model: nn.Module) -> Says:
    def says(row: TrainingRow) -> Tensor:
        ids = torch.tensor(row.token_ids, dtype=torch.int64).unsqueeze(0)
        logprobs = model(input_ids=ids).logits[0, :-1].log_softmax(-1)
        chosen = F.pad(logprobs[torch.arange(len(row.token_ids) - 1), ids[0, 1:]], (1, 0))
        return chosen * torch.from_numpy(row.loss_mask)

    return says


def scores_of(model: nn.Module) -> Says:
    """Of a sequence classifier at the loss tokens: each read by transformers' own forward of the row up to there."""

    def says(row: TrainingRow) -> Tensor:
        ids = torch.tensor(row.token_ids, dtype=torch.int64).unsqueeze(0)
        found = [
            model(input_ids=ids[:, : i + 1]).logits[0, 0] if on else torch.zeros(())
            for i, on in enumerate(row.loss_mask)
        ]
        return torch.stack(found)

    return says


def train(
    model: nn.Module,
    says: Says,
    steps: Sequence[Sequence[Unit]],
    loss: Callable[[Says, Sequence[Unit]], Tensor],
    *,
    lr: float,
    eps: float,
    clipping: float = 1.0,
) -> tuple[list[float], list[float], dict[str, np.ndarray]]:
    """Loss per step, gradient norm per step, parameters at the end."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, eps=eps, weight_decay=0.0)
    losses, norms = [], []
    for units in steps:
        optimizer.zero_grad()
        value = loss(says, units)
        value.backward()
        norms.append(float(torch.nn.utils.clip_grad_norm_(model.parameters(), clipping)))
        optimizer.step()
        losses.append(value.item())
    return losses, norms, {name: p.detach().float().numpy() for name, p in model.named_parameters()}


def log_ratio(says: Says, row: TrainingRow) -> Tensor:
    return says(row).sum() - float(row.columns["ref_logprobs"].sum())


def sigmoid_loss(beta: float, smoothing: float) -> Callable[[Says, Sequence[Unit]], Tensor]:
    """DPO (Rafailov et al. 2023, eq. 7), conservative with label smoothing."""

    def loss(says: Says, units: Sequence[Unit]) -> Tensor:
        total = torch.zeros(())
        for chosen, rejected in units:
            margin = beta * (log_ratio(says, chosen) - log_ratio(says, rejected))
            total = total - (1 - smoothing) * F.logsigmoid(margin) - smoothing * F.logsigmoid(-margin)
        return total / len(units)

    return loss


def bradley_terry(centring: float) -> Callable[[Says, Sequence[Unit]], Tensor]:
    def loss(says: Says, units: Sequence[Unit]) -> Tensor:
        total = torch.zeros(())
        for pair in units:
            chosen, rejected = (says(row).sum() for row in pair)
            total = total - F.logsigmoid(chosen - rejected) + centring * (chosen + rejected) ** 2
        return total / len(units)

    return loss


def process_reward(says: Says, units: Sequence[Unit]) -> Tensor:
    """Binary cross entropy at the end of each step."""
    total, count = torch.zeros(()), 0
    for (row,) in units:
        scores = says(row)
        for i in np.flatnonzero(row.loss_mask):
            target = float(row.columns["targets"][i])
            probability = torch.sigmoid(scores[i])
            total = total - target * probability.log() - (1 - target) * (1 - probability).log()
            count += 1
    return total / count


def kto(beta: float) -> Callable[[Says, Sequence[Unit]], Tensor]:
    """Ethayarajh et al. 2024, its reference point from the mismatched rows of the batch."""

    def loss(says: Says, pairs: Sequence[Unit]) -> Tensor:
        with torch.no_grad():
            differences = [log_ratio(says, other).item() for _, other in pairs]
        baseline = max(sum(differences) / len(differences), 0.0)
        total = torch.zeros(())
        for row, _ in pairs:
            gained = beta * (log_ratio(says, row) - baseline)
            total = total + 1 - torch.sigmoid(gained if row.score else -gained)
        return total / len(pairs)

    return loss


def mean_logprob(says: Says, row: TrainingRow) -> Tensor:
    return says(row).sum() / row.num_loss_tokens


def orpo(weight: float) -> Callable[[Says, Sequence[Unit]], Tensor]:
    """Hong et al. 2024, eq. 6 and 7."""

    def log_odds(value: Tensor) -> Tensor:
        return value - torch.log(1 - value.exp())

    def loss(says: Says, units: Sequence[Unit]) -> Tensor:
        total = torch.zeros(())
        for chosen, rejected in units:
            good, bad = mean_logprob(says, chosen), mean_logprob(says, rejected)
            total = total - good - weight * F.logsigmoid(log_odds(good) - log_odds(bad))
        return total / len(units)

    return loss


def simpo(beta: float, gamma: float) -> Callable[[Says, Sequence[Unit]], Tensor]:
    """Meng et al. 2024, eq. 6."""

    def loss(says: Says, units: Sequence[Unit]) -> Tensor:
        total = torch.zeros(())
        for pair in units:
            good, bad = (mean_logprob(says, row) for row in pair)
            total = total - F.logsigmoid(beta * (good - bad) - gamma)
        return total / len(units)

    return loss


def ipo(beta: float) -> Callable[[Says, Sequence[Unit]], Tensor]:
    """Azar et al. 2023, eq. 17."""

    def loss(says: Says, units: Sequence[Unit]) -> Tensor:
        total = torch.zeros(())
        for chosen, rejected in units:
            margin = log_ratio(says, chosen) - log_ratio(says, rejected)
            total = total + (margin - 1 / (2 * beta)) ** 2
        return total / len(units)

    return loss

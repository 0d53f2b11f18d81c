"""Log probabilities computed from hidden states in chunks of rows, so that the full logits never exist."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

ROWS, FEWEST_ROWS, PARTS = 512, 64, 16
"""Rows per chunk: at most ROWS, at least FEWEST_ROWS, and between them one PARTS-th of all rows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LogitShape:
    """Steps between an output head's product and the distribution that tokens are drawn from, in this order."""

    multiplier: float = 1.0
    softcap: float | None = None  # z becomes softcap * tanh(z / softcap)
    banned_token_ids: tuple[int, ...] = ()
    temperature: float = 1.0

    def apply(self, logits: Tensor) -> Tensor:  # [N, V] in the model's precision, to [N, V] float32
        """Apply the steps, in place if `logits` is float32 already."""
        logits = logits.float()
        if self.multiplier != 1.0:
            logits.mul_(self.multiplier)
        if self.softcap is not None:
            logits.div_(self.softcap).tanh_().mul_(self.softcap)
        if self.banned_token_ids:
            logits.index_fill_(-1, self.banned(logits), float("-inf"))
        return logits if self.temperature == 1.0 else logits.div_(self.temperature)

    def banned(self, like: Tensor) -> Tensor:
        return torch.tensor(self.banned_token_ids, dtype=torch.long, device=like.device)


class ChunkedLogprobs(torch.autograd.Function):
    """Logprob and, with `statistics`, entropy in nats and first choice of N targets, from the states [N, H] that
    predict them.

    The backward pass computes the logits again, which costs one more product of the head and keeps none of them. The
    entropy has a gradient too, which takes one more chunk of memory if a loss uses it.
    """

    @staticmethod
    def forward(
        ctx: Any,
        states: Tensor,  # [N, H]
        weight: Tensor,  # [V, H]
        bias: Tensor | None,  # [V]
        targets: Tensor,  # [N] int64
        shape: LogitShape,
        statistics: bool,
    ) -> tuple[Tensor, ...]:  # [N] float32, and with statistics [N] float32, [N] bool
        logprobs, entropy = (torch.empty(len(states), dtype=torch.float32, device=states.device) for _ in range(2))
        first_choice = torch.empty(len(states), dtype=torch.bool, device=states.device)
        normalisers = torch.empty_like(logprobs)
        for rows in chunks(len(states)):
            logits = shape.apply(torch.nn.functional.linear(states[rows], weight, bias))
            wanted = targets[rows]
            normalisers[rows] = logits.logsumexp(-1)
            logprobs[rows] = logits.gather(-1, wanted[:, None]).squeeze(-1) - normalisers[rows]
            if statistics:
                first_choice[rows] = logits.argmax(-1) == wanted
                probabilities = logits.sub_(normalisers[rows, None]).exp()
                if shape.banned_token_ids:  # 0 times minus infinity is NaN
                    logits.index_fill_(-1, shape.banned(logits), 0.0)
                entropy[rows] = -probabilities.mul_(logits).sum(-1)
                del probabilities
            del logits
        ctx.save_for_backward(states, weight, bias, targets, normalisers, entropy)
        ctx.shape = shape
        # The gradient of an entropy that no loss uses is None, and costs nothing.
        ctx.set_materialize_grads(False)
        if not statistics:
            return (logprobs,)
        ctx.mark_non_differentiable(first_choice)
        return logprobs, entropy, first_choice

    @staticmethod
    def backward(
        ctx: Any, grad: Tensor | None, grad_entropy: Tensor | None = None, *_: None
    ) -> tuple[Tensor | None, ...]:
        states, weight, bias, targets, normalisers, entropy = ctx.saved_tensors
        grad = torch.zeros_like(normalisers) if grad is None else grad
        of_states, of_weight, of_bias, *_ = ctx.needs_input_grad
        grad_states = torch.empty_like(states) if of_states else None
        grad_weight = torch.zeros_like(weight) if of_weight else None
        grad_bias = torch.zeros_like(bias) if of_bias else None
        for rows in chunks(len(states)):
            logits = ctx.shape.apply(torch.nn.functional.linear(states[rows], weight, bias))
            slope = logit_slope(logits, ctx.shape)
            # A target of logprob minus infinity has no gradient, as if it were masked in the unchunked computation.
            share = grad[rows].masked_fill(logits.gather(-1, targets[rows, None]).squeeze(-1).isneginf(), 0.0)
            logits.sub_(normalisers[rows, None])
            pull = None
            if grad_entropy is not None:
                pull = entropy_slope(logits, entropy[rows], ctx.shape).mul_(grad_entropy[rows, None])
            logits.exp_().mul_(-share[:, None])
            logits.scatter_add_(-1, targets[rows, None], share[:, None])
            if pull is not None:
                logits.add_(pull)
            if slope is not None:
                logits.mul_(slope)
            scale = ctx.shape.multiplier / ctx.shape.temperature
            product = (logits if scale == 1.0 else logits.mul_(scale)).to(weight.dtype)
            del logits, slope, pull
            if grad_states is not None:
                grad_states[rows] = product @ weight
            if grad_weight is not None:
                grad_weight.addmm_(product.T, states[rows])
            if grad_bias is not None:
                grad_bias += product.sum(0)
            del product
        return grad_states, grad_weight, grad_bias, None, None, None


def entropy_slope(logprobs: Tensor, entropy: Tensor, shape: LogitShape) -> Tensor:  # [N, V], [N], to [N, V]
    """Derivative of the entropy H at each shaped logit, -p (log p + H); 0 where the token is banned."""
    slope = (logprobs + entropy[:, None]).mul_(logprobs.exp()).neg_()
    if shape.banned_token_ids:  # 0 times minus infinity is NaN
        slope.index_fill_(-1, shape.banned(slope), 0.0)
    return slope


def logit_slope(logits: Tensor, shape: LogitShape) -> Tensor | None:
    """Derivative of the soft cap at each shaped logit; 0 where the token is banned."""
    if shape.softcap is None:
        return None
    slope = logits * (shape.temperature / shape.softcap)
    if shape.banned_token_ids:
        slope.index_fill_(-1, shape.banned(slope), 1.0)
    return slope.square_().neg_().add_(1.0)


def chunks(num_rows: int) -> Iterator[slice]:
    size = min(ROWS, max(FEWEST_ROWS, -(-num_rows // PARTS)))
    for start in range(0, num_rows, size):
        yield slice(start, min(start + size, num_rows))

"""Reference outputs: transformers' own forward pass of one row, given only the row's tokens."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rlhf.models.heads import Head
from rlhf.models.output_head import unwrapped
from rlhf.ops.microbatch import MicroBatch


class OwnForward:
    """Outputs of each row alone, as a reference for readouts, which pass positions and pack or pad rows.

    [B, T], in the places where readouts put them: a token's logprob and the value before it are at the token, a score
    is at the last token only.
    """

    def __init__(self, head: Head) -> None:
        self.head = head

    def __call__(self, model: nn.Module, batch: MicroBatch) -> Tensor:
        logits = model(input_ids=batch.token_ids).logits.float()
        if self.head is Head.causal_lm:
            logprobs = torch.log_softmax(logits[:, :-1], dim=-1).gather(-1, batch.token_ids[:, 1:, None])
            return F.pad(logprobs.squeeze(-1), (1, 0))
        if self.head is Head.value:
            return F.pad(logits.squeeze(-1)[:, :-1], (1, 0))
        return F.pad(logits, (batch.token_ids.shape[1] - 1, 0))


class HiddenStates:
    """Inputs of a model's head, [B, T, H] float32, while `ask` reads a micro-batch.

    An untrained head outputs 0 for every row; its inputs differ between rows.
    """

    def __init__(self, ask: Callable[[nn.Module, MicroBatch], Any]) -> None:
        self.ask = ask

    def __call__(self, model: nn.Module, batch: MicroBatch) -> Tensor:
        found: list[Tensor] = []
        hook = body_of(model).register_forward_hook(lambda module, inputs, output: found.append(output[0]))
        try:
            self.ask(model, batch)
        finally:
            hook.remove()
        return found[-1].float()


def body_of(model: nn.Module) -> nn.Module:
    """Return the model below its head, also inside an engine and an adapter."""
    return unwrapped(model).base_model.get_decoder()

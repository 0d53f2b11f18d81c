"""Logprobs instead of logits from the output head of a causal language model."""

from __future__ import annotations

from collections.abc import Callable
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rlhf.algorithms.base import TokenStatistics
from rlhf.ops.chunked_head import ChunkedLogprobs, LogitShape
from rlhf.ops.microbatch import MicroBatch

PROBE_TOLERANCE = 0.02
"""Largest rounding difference in bf16 between a model's own logits and its head's, in units of the largest logit."""

known: WeakKeyDictionary[nn.Module, LogitShape | None] = WeakKeyDictionary()
"""Shape of each model's logits; None if only the model's own forward pass computes them."""


def shape_of(model: nn.Module, batch: MicroBatch) -> LogitShape | None:
    """Return the transformation of the head's product that the config declares, if the model's own logits of the first
    two tokens agree.

    None: another kind of head, or a model that transforms its logits in a way no key here describes. Every rank of a
    model calls this at its first micro-batch, since the check is a forward pass.
    """
    module = unwrapped(model)
    if module not in known:
        known[module] = checked_shape(model, module, batch)
    return known[module]


def computes_all_logits(model: nn.Module, batch: MicroBatch) -> bool:
    """Return whether the model has a head but `shape_of` is None, so that all logits are computed at once. A readout,
    for `Backend`."""
    module = unwrapped(model)
    return module in known and known[module] is None


def unwrapped(model: nn.Module) -> nn.Module:
    """Return the transformers model inside an engine and an adapter."""
    module = getattr(model, "module", model)
    return module.get_base_model() if hasattr(module, "get_base_model") else module


def checked_shape(model: nn.Module, module: nn.Module, batch: MicroBatch) -> LogitShape | None:
    head: nn.Module | None = module.get_output_embeddings() if hasattr(module, "get_output_embeddings") else None
    if not isinstance(head, nn.Linear) or type(head) is not nn.Linear:
        return None
    shape = config_shape(module)

    def forward(states: Tensor) -> Tensor:  # the logits of two tokens of the micro-batch
        return F.linear(states[:1, :2], head.weight, head.bias)

    # Restores the random state, so that the check does not change the dropout of the training.
    with torch.no_grad(), torch.random.fork_rng():
        product, own = through_head(model, batch, head, forward)
    if own.shape != product.shape:
        return None
    difference = (shape.apply(product.clone()) - own.float()).abs().max()
    return shape if difference <= PROBE_TOLERANCE * own.float().abs().max() else None


def config_shape(module: nn.Module) -> LogitShape:
    """Read the shape of the logits from the config: Gemma caps them, Cohere multiplies them, Granite divides them."""
    config = module.config.get_text_config()
    softcap = getattr(config, "final_logit_softcapping", None)
    multiplier = getattr(config, "logit_scale", None) or 1.0
    return LogitShape(multiplier=multiplier / (getattr(config, "logits_scaling", None) or 1.0), softcap=softcap)


def head_logprobs(
    model: nn.Module, batch: MicroBatch, shape: LogitShape, *, statistics: bool
) -> tuple[Tensor, TokenStatistics | None]:  # [B, T] float32 and the same shape; 0 where nothing is learnt
    """Compute the logprob and, if wanted, the statistics of each learnt token, at its own position.

    They are computed inside the head's `forward`, so that ZeRO-3 gathers its weight for both passes.
    """
    head = unwrapped(model).get_output_embeddings()
    learnt = batch.loss_mask[:, 1:]
    targets = batch.token_ids[:, 1:][learnt]
    extras: list[Tensor] = []

    def forward(states: Tensor) -> Tensor:  # [B, T, H], to [B, T, 1]: its logprobs
        logprobs, *others = ChunkedLogprobs.apply(
            states[:, :-1][learnt], head.weight, head.bias, targets, shape, statistics
        )
        extras.extend(others)
        return spread(logprobs, batch.loss_mask).unsqueeze(-1)

    logprobs, _ = through_head(model, batch, head, forward)
    logprobs = logprobs.squeeze(-1)
    return logprobs, TokenStatistics(*(spread(values, batch.loss_mask) for values in extras)) if extras else None


def through_head(
    model: nn.Module, batch: MicroBatch, head: nn.Module, forward: Callable[[Tensor], Tensor]
) -> tuple[Tensor, Tensor]:
    """Run the model with `forward` in place of its head's; return the outputs of the head and of the model."""
    found: list[Tensor] = []
    own_forward = head.__dict__.get("forward")
    hook = head.register_forward_hook(lambda module, inputs, output: found.append(output))
    head.forward = forward
    try:
        # use_cache=False: with a cache transformers does not look for packed sequences, and they would see each other.
        made = model(input_ids=batch.token_ids, position_ids=batch.position_ids, use_cache=False).logits
    finally:
        hook.remove()
        del head.forward
        if own_forward is not None:
            head.forward = own_forward
    return found[0], made


def spread(values: Tensor, loss_mask: Tensor) -> Tensor:  # [N], to [B, T]
    """Put the values of the learnt tokens, except a row's first token, in their places; 0 elsewhere."""
    places = loss_mask.clone()
    places[:, 0] = False
    return values.new_zeros(loss_mask.shape).masked_scatter(places, values)

"""Buffers of a model: persistent ones are saved with the weights, the others are derived from the config."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel


def persistent_buffers(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yield the names and values of buffers that belong to a model's weights: Gemma 4's layer scalars, Apertus'
    activations."""
    for prefix, module in model.named_modules():
        for name, buffer in module.named_buffers(prefix, recurse=False):
            if name.rpartition(".")[2] not in module._non_persistent_buffers_set:
                yield name, buffer


def restore_derived_buffers(model: PreTrainedModel) -> None:
    """Recompute what a model derives from its config, such as rotary frequencies, as `from_pretrained` does.

    While ZeRO-3 shards a model during construction, every floating-point tensor is created in the training precision,
    intermediate results too: in bf16, frequencies and position tables come out wrong.
    """
    with torch.device("meta"):
        plain = type(model)._from_config(model.config, dtype=model.dtype)
    dtypes = {name: buffer.dtype for name, buffer in plain.named_buffers()}
    for tensor in (*model.parameters(), *(buffer for _, buffer in persistent_buffers(model))):
        # transformers' initialisers skip tensors with this mark.
        tensor._is_hf_initialized = True
    for prefix, module in model.named_modules():
        for name in module._non_persistent_buffers_set:
            if is_floating(getattr(module, name)):
                dtype = dtypes[f"{prefix}.{name}" if prefix else name]
                setattr(module, name, getattr(module, name).to(dtype))
    for prefix, module in model.named_modules():
        # Most buffers are computed by the initialisation of their module, some by that of the whole model.
        if isinstance(module, PreTrainedModel) or any(map(is_floating, module._buffers.values())):
            owner_of(model, prefix)._init_weights(module)


def is_floating(buffer: Tensor | None) -> bool:
    return buffer is not None and buffer.is_floating_point()


def owner_of(model: PreTrainedModel, name: str) -> PreTrainedModel:
    """Return the innermost PreTrainedModel that contains the module `name` and can initialise it."""
    owner, module = model, model
    for part in filter(None, name.split(".")):
        module = getattr(module, part)
        if isinstance(module, PreTrainedModel):
            owner = module
    return owner

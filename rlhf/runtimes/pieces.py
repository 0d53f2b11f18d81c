"""A model's tensors as engines get them: its own, an adapter merged into them, or the adapter alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import deepspeed
import torch
from peft import PeftModel
from torch import Tensor, nn

from rlhf.models.buffers import persistent_buffers

BASE = ".base_layer"
"""Suffix that peft adds to the name of a layer with an adapter."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """A tensor to send, computed from parts of the model."""

    name: str
    """Name in the Hugging Face checkpoint, or in peft's adapter file."""
    num_bytes: int
    parts: tuple[Tensor, ...]
    """Tensors to gather before `read`."""
    read: Callable[[], Tensor]
    """Return the value. The model is not changed."""


def pieces_of(model: nn.Module, *, adapter_alone: bool) -> list[Piece]:
    """Return the whole model, an adapter merged into it, or with `adapter_alone` the adapter under the names of peft's
    files."""
    if not isinstance(model, PeftModel):
        assert not adapter_alone, "the model has no adapter to send"
        return [plain_piece(name, tensor) for name, tensor in tensors_of(model).items()]
    if adapter_alone:
        trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
        return [plain_piece(name.replace(f".{model.active_adapter}.", "."), p) for name, p in trained.items()]
    base = model.get_base_model()
    frozen = {name: tensor for name, tensor in tensors_of(base).items() if not tensor.requires_grad}
    return [merged_piece(base, name, tensor, model.active_adapter) for name, tensor in frozen.items()]


def plain_piece(name: str, tensor: Tensor) -> Piece:
    num_bytes = num_elements(tensor) * tensor.element_size()
    return Piece(name=name, num_bytes=num_bytes, parts=(tensor,), read=lambda: tensor.data)


def merged_piece(base: nn.Module, name: str, tensor: Tensor, adapter: str) -> Piece:
    """Return a frozen tensor of `base`, with the adapter of its layer added; 4-bit weights in the precision they
    compute in."""
    owner, _, leaf = name.rpartition(".")
    merged = f"{owner.removesuffix(BASE)}.{leaf}"
    layer = base.get_submodule(owner)
    if leaf != "weight":
        return plain_piece(merged, tensor)
    if owner.endswith(BASE):
        adapted = base.get_submodule(owner.removesuffix(BASE))
        parts = (tensor, *(p for p in adapted.parameters() if p.requires_grad))
        return Piece(
            name=merged, num_bytes=whole_bytes(tensor), parts=parts, read=partial(merged_weight, adapted, adapter)
        )
    read = partial(dense_weight, layer)
    return Piece(name=merged, num_bytes=whole_bytes(tensor), parts=(tensor,), read=read)


def merged_weight(layer: Any, adapter: str) -> Tensor:
    """Return the weight of a layer plus its adapter's product, added in fp32, in the adapter's precision, which a 4-bit
    weight computes in."""
    product = layer.get_delta_weight(adapter)
    return (dense_weight(layer.get_base_layer()).float() + product.float()).to(product.dtype)


def dense_weight(layer: Any) -> Tensor:
    """Return a layer's weight, which for 4 bits are its outputs for unit inputs: bitsandbytes changes the order of the
    bytes for the kernels of some CPUs."""
    if getattr(layer.weight, "quant_state", None) is None:
        return layer.weight.data
    units = torch.eye(layer.in_features, dtype=layer.compute_dtype, device=layer.weight.device)
    outputs = layer(units)
    return (outputs if layer.bias is None else outputs - layer.bias).T


def whole_bytes(weight: Tensor) -> int:
    """Return the bytes of a weight, of a 4-bit one after its expansion."""
    state = getattr(weight, "quant_state", None)
    if state is not None:
        return int(state.shape.numel() * state.dtype.itemsize)
    return num_elements(weight) * weight.element_size()


def tensors_of(model: nn.Module) -> dict[str, Tensor]:
    """Return all that the model consists of, by name: its parameters and the buffers that belong to its weights."""
    return {**dict(model.named_parameters()), **dict(persistent_buffers(model))}


def whole(named: dict[str, Tensor], *, sharded: bool, keep: bool) -> dict[str, Tensor]:
    """Return the tensors on the CPU, gathered one by one; empty without `keep`. Every rank calls it."""
    values: dict[str, Tensor] = {}
    for name, tensor in named.items():
        with deepspeed.zero.GatheredParameters(sharded_among([tensor]), enabled=sharded):
            if keep:
                values[name] = tensor.data.cpu().clone()
    return values


def gathered(pieces: Sequence[Piece], *, sharded: bool) -> Any:
    """Return a context in which all parts of the pieces are whole on every rank."""
    parts = [part for piece in pieces for part in piece.parts]
    return deepspeed.zero.GatheredParameters(sharded_among(parts), enabled=sharded)


def sharded_among(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Return the parameters that ZeRO-3 has to gather."""
    return [tensor for tensor in tensors if hasattr(tensor, "ds_id")]


def num_elements(tensor: Tensor) -> int:
    """Return the number of elements of the whole tensor, for which ZeRO-3 leaves an empty one."""
    return int(getattr(tensor, "ds_numel", tensor.numel()))

"""Shapes of published models, counted on the meta device: no weights, no download."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from rlhf.types import InputError

QWEN3 = {"model_type": "qwen3", "vocab_size": 151936, "head_dim": 128, "num_key_value_heads": 8}
LLAMA31 = {"model_type": "llama", "vocab_size": 128256, "head_dim": 128, "num_key_value_heads": 8}


def sizes(hidden: int, intermediate: int, layers: int, heads: int, *, tied: bool) -> dict[str, Any]:
    return {
        "hidden_size": hidden,
        "intermediate_size": intermediate,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "tie_word_embeddings": tied,
    }


SHAPES: dict[str, dict[str, Any]] = {
    "Qwen3-0.6B": {**QWEN3, **sizes(1024, 3072, 28, 16, tied=True)},
    "Qwen3-1.7B": {**QWEN3, **sizes(2048, 6144, 28, 16, tied=True)},
    "Qwen3-4B": {**QWEN3, **sizes(2560, 9728, 36, 32, tied=True)},
    "Qwen3-8B": {**QWEN3, **sizes(4096, 12288, 36, 32, tied=False)},
    "Qwen3-32B": {**QWEN3, **sizes(5120, 25600, 64, 64, tied=False)},
    "Llama-3.1-8B": {**LLAMA31, **sizes(4096, 14336, 32, 32, tied=False)},
}
"""Sizes of models, from their config.json."""
BYTES = 2
"""Bytes of a parameter or activation in bf16."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelShape:
    """Counts from which memory is computed."""

    num_parameters: int
    """Number of parameters; tied ones count once."""
    num_layers: int
    hidden_size: int
    vocab_size: int
    tied: bool
    kv_bytes_per_token: int
    """Keys and values of all layers, bf16."""
    linear_ends: tuple[int, ...]
    """Inputs plus outputs of every linear layer except the head: parameters of an adapter of rank 1."""
    layer_bytes_per_token: float
    """Bytes per token that one layer keeps for its backward pass, in bf16, with attention that stores no scores."""

    @property
    def head_parameters(self) -> int:
        return self.vocab_size * self.hidden_size


def shape_of(name: str) -> ModelShape:
    """Return the shape of a model by its published name; suffixes such as -Base or -Instruct are ignored.

    Raises InputError for a model that is not in this table.
    """
    known = next((shape for shape in SHAPES if name == shape or name.startswith(f"{shape}-")), None)
    if known is None:
        raise InputError(f"{name}: its shape is not known; known are {', '.join(SHAPES)}")
    return count(known)


@functools.cache
def count(name: str) -> ModelShape:
    settings = dict(SHAPES[name])
    config = AutoConfig.for_model(settings.pop("model_type"), **settings)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    head = model.get_output_embeddings()
    linear = [each for each in model.modules() if isinstance(each, nn.Linear) and each is not head]
    return ModelShape(
        num_parameters=sum(parameter.numel() for parameter in model.parameters()),
        num_layers=config.num_hidden_layers,
        hidden_size=config.hidden_size,
        vocab_size=config.vocab_size,
        tied=config.tie_word_embeddings,
        kv_bytes_per_token=2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim * BYTES,
        linear_ends=tuple(each.in_features + each.out_features for each in linear),
        layer_bytes_per_token=kept_by_layer(model, num_tokens=1024) / 1024,
    )


class KeptByAttention(torch.autograd.Function):
    """Save what a fused attention kernel saves: queries, keys, values, its output, and a number per row and head."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:  # [1, heads, T, D] each
        output = torch.empty_like(query.transpose(1, 2))
        ctx.save_for_backward(query, key, value, output, torch.empty(query.shape[:3], device=query.device))
        return output

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> None:
        raise NotImplementedError("the meta device counts memory and computes no gradients")


def kept_by_layer(model: nn.Module, num_tokens: int) -> int:
    """Return the bytes that a decoder layer's forward pass keeps for the backward pass, besides parameters."""

    def attend(module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: None, **_: Any) -> Any:
        return KeptByAttention.apply(query, key, value), None

    ALL_ATTENTION_FUNCTIONS.register("counted", attend)
    model.config._attn_implementation = "counted"
    known = {parameter.untyped_storage()._cdata for parameter in model.parameters()}
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage()._cdata] = tensor
        return tensor

    shape = (1, num_tokens, model.config.hidden_size)
    hidden = torch.empty(shape, dtype=torch.bfloat16, device="meta", requires_grad=True)
    positions = torch.arange(num_tokens, device="meta")[None]
    rotary = model.model.rotary_emb(hidden, positions)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model.model.layers[0](hidden, position_embeddings=rotary, position_ids=positions, attention_mask=None)
    return sum(tensor.untyped_storage().nbytes() for key, tensor in kept.items() if key not in known)

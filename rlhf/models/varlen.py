"""Attention of packed rows without a dense mask: each sequence attends within itself, and a [T, T] mask never exists.

transformers gives its sdpa a mask [1, 1, T, T] of booleans for packed rows, with which PyTorch has no flash kernel and
both time and memory grow with the square of all tokens. This implementation is registered beside it. On a GPU in half
precision it runs PyTorch's own variable-length kernels; elsewhere one sdpa per sequence, which is their oracle.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention.varlen import varlen_attn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

MAX_HEAD_DIM, HEAD_DIM_STEP = 256, 8
"""Largest head that the variable-length kernels support, and the number that divides its size: only sdpa pads heads."""
AMPERE = (8, 0)
"""Lowest compute capability that has these kernels."""


class PackedRows(NamedTuple):
    """The bounds of the sequences in one packed row, given to layers in place of a mask. A tuple, because DeepSpeed's
    hooks look for tensors in tuples."""

    offsets: Tensor  # [N + 1] int32: the first token of each sequence, and the number of tokens
    lengths: tuple[int, ...]  # tokens of each sequence
    window: int | None  # tokens that a token attends to, itself included; None: all before it


def packed_rows(
    *,
    batch_size: int,
    q_length: int,
    kv_length: int,
    mask_function: Callable[..., Any],
    attention_mask: Tensor | None = None,
    use_vmap: bool = False,
    allow_is_bidirectional_skip: bool = False,
    device: torch.device | str = "cpu",
    **others: Any,
) -> PackedRows | Tensor | None:
    """Build the mask for a model's layers; called once per forward pass and kind of layer.

    Any layout but a single row of causal sequences (padded rows, encoders, masks that look ahead) gets sdpa's own mask,
    which is None if plain causal attention suffices. A sequence begins where a token does not attend to the token
    before it; a sliding window is as wide as the span that the last token of the longest sequence attends to.
    """
    is_one_row = batch_size == 1 and q_length == kv_length and attention_mask is None
    if not is_one_row or use_vmap or allow_is_bidirectional_skip:
        return sdpa_mask(
            batch_size=batch_size,
            q_length=q_length,
            kv_length=kv_length,
            mask_function=mask_function,
            attention_mask=attention_mask,
            use_vmap=use_vmap,
            allow_is_bidirectional_skip=allow_is_bidirectional_skip,
            device=device,
            **others,
        )
    zero = torch.zeros((), dtype=torch.long, device=device)
    tokens = torch.arange(q_length, device=device)
    begins = ~mask_function(zero, zero, tokens, (tokens - 1).clamp_min(0))
    begins[0] = True
    starts = begins.nonzero().flatten()
    offsets = torch.cat([starts, starts.new_tensor([q_length])])
    lengths = offsets.diff().tolist()
    longest = max(range(len(lengths)), key=lengths.__getitem__)
    last = offsets[longest + 1] - 1
    num_seen = int(mask_function(zero, zero, last, tokens).expand(q_length).sum())
    window = num_seen if num_seen < lengths[longest] else None
    return PackedRows(offsets.to(torch.int32), tuple(lengths), window)


def attend(
    module: nn.Module,
    query: Tensor,  # [B, heads, T, D]
    key: Tensor,  # [B, KV heads, T, D]
    value: Tensor,  # [B, KV heads, T, D]
    attention_mask: PackedRows | Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **others: Any,
) -> tuple[Tensor, None]:  # [B, T, heads, D]
    """Attend within each sequence of a packed row; with any other mask this is transformers' sdpa."""
    if not isinstance(attention_mask, PackedRows):
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **others
        )
    if has_kernel(query, key, value) and dropout == 0.0:
        return by_kernel(query, key, value, attention_mask, scaling), None
    return by_sequence(query, key, value, attention_mask, scaling, dropout), None


def has_kernel(query: Tensor, key: Tensor, value: Tensor) -> bool:
    if not query.is_cuda or torch.cuda.get_device_capability(query.device) < AMPERE:
        return False
    return fits_kernel(query.dtype, key.shape[-1], value.shape[-1])


def fits_kernel(dtype: torch.dtype, key_dim: int, value_dim: int) -> bool:
    fits = key_dim == value_dim <= MAX_HEAD_DIM and key_dim % HEAD_DIM_STEP == 0
    return fits and dtype in (torch.bfloat16, torch.float16)


def by_kernel(query: Tensor, key: Tensor, value: Tensor, rows: PackedRows, scaling: float | None) -> Tensor:
    """Attend by PyTorch's variable-length kernels, on a GPU in half precision."""
    longest = max(rows.lengths)
    flat = (states[0].transpose(0, 1) for states in (query, key, value))  # [T, heads, D] each
    # Tokens attended to on the left of a token's own place.
    window = (-1 if rows.window is None else rows.window - 1, 0)
    made = varlen_attn(
        *flat, rows.offsets, rows.offsets, longest, longest, scale=scaling, window_size=window, enable_gqa=True
    )
    assert isinstance(made, Tensor)
    return made.unsqueeze(0)


def by_sequence(
    query: Tensor, key: Tensor, value: Tensor, rows: PackedRows, scaling: float | None, dropout: float = 0.0
) -> Tensor:
    """Attend by one sdpa per sequence, on any device and in any precision."""
    band = None  # [longest, longest]; a shorter sequence uses its upper left corner
    if rows.window is not None:
        places = torch.arange(max(rows.lengths), device=query.device)
        distance = places[:, None] - places[None, :]
        band = (distance >= 0) & (distance < rows.window)
    parts = []
    for q, k, v in zip(*(states.split(rows.lengths, dim=2) for states in (query, key, value)), strict=True):
        length = q.shape[2]
        mask = None if band is None or rows.window is None or length <= rows.window else band[:length, :length]
        parts.append(
            F.scaled_dot_product_attention(
                q, k, v, attn_mask=mask, dropout_p=dropout, is_causal=mask is None, scale=scaling, enable_gqa=True
            )
        )
    return torch.cat(parts, dim=2).transpose(1, 2).contiguous()


def register(name: str) -> None:
    """Make `attn_implementation=name` known to transformers."""
    AttentionInterface.register(name, attend)
    AttentionMaskInterface.register(name, packed_rows)

"""Implementations of attention, and the model features that only some of them support."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING

from rlhf.models.heads import Head, model_class
from rlhf.types import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedConfig


class Attention(StrEnum):
    """Implementations of attention. flash_attention_2 needs a GPU and the flash-attn package; varlen is this project's
    (models/varlen.py), the others are in transformers."""

    varlen = "varlen"
    sdpa = "sdpa"
    eager = "eager"
    flash_attention_2 = "flash_attention_2"


def choose_attention(attention: Attention | None, config: PreTrainedConfig, head: Head, path: str) -> Attention:
    """Return `attention` or, if None, the first of varlen, sdpa and eager that supports all features of the model.

    Raises InputError if `attention` does not: PyTorch's kernels support neither a soft cap on attention logits
    (Gemma 2) nor attention sinks, and transformers drops the cap silently.
    """
    lacks = lacking_in_sdpa(config, head)
    fixed = attention_is_fixed(config, head)
    if attention in (Attention.varlen, Attention.sdpa) and lacks is not None:
        raise InputError(
            f"backend.attention={attention}: model {path!r} has {lacks}, which {attention} does not compute; set "
            "backend.attention=eager"
        )
    if attention is Attention.varlen and fixed:
        raise InputError(
            f"backend.attention=varlen: model {path!r} has its own attention code, which cannot be replaced; set "
            "backend.attention=sdpa"
        )
    if attention is not None:
        return attention
    if lacks is not None:
        return Attention.eager
    return Attention.sdpa if fixed else Attention.varlen


def attention_is_fixed(config: PreTrainedConfig, head: Head) -> bool:
    """Return whether the model's code has its own attention, which cannot be replaced (Falcon, BLOOM)."""
    return not model_class(config, head)._can_set_attn_implementation()


def lacking_in_sdpa(config: PreTrainedConfig, head: Head) -> str | None:
    softcap = getattr(config.get_text_config(), "attn_logit_softcapping", None)
    if softcap is not None:
        return f"a soft cap on attention logits (attn_logit_softcapping={softcap})"
    # Models with sinks, or with biases that only their own attention code adds, declare that sdpa is unsupported.
    supported: bool = model_class(config, head)._supports_sdpa
    return None if supported else "its own attention, such as sinks"

"""Implementations of attention, and what a model asks that not all of them compute."""

from __future__ import annotations

from enum import StrEnum

from transformers import PreTrainedConfig

from rlhf.models.heads import Head, model_class
from rlhf.types import InputError


class Attention(StrEnum):
    """Implementations of attention in transformers. flash_attention_2 needs a GPU and the flash-attn package."""

    sdpa = "sdpa"
    eager = "eager"
    flash_attention_2 = "flash_attention_2"


def choose_attention(asked: Attention | None, config: PreTrainedConfig, head: Head, path: str) -> Attention:
    """The one asked for, or with None sdpa where it computes all that the model asks, else eager.

    InputError where the one asked for would leave something out: PyTorch's sdpa knows neither a soft cap on attention
    logits (Gemma 2) nor attention sinks, and transformers drops the cap without a word.
    """
    lacks = lacking_in_sdpa(config, head)
    if asked is Attention.sdpa and lacks is not None:
        raise InputError(
            f"backend.attention=sdpa: model {path!r} has {lacks}, which sdpa does not compute; set "
            "backend.attention=eager"
        )
    return asked or (Attention.sdpa if lacks is None else Attention.eager)


def lacking_in_sdpa(config: PreTrainedConfig, head: Head) -> str | None:
    softcap = getattr(config.get_text_config(), "attn_logit_softcapping", None)
    if softcap is not None:
        return f"a soft cap on attention logits (attn_logit_softcapping={softcap})"
    # Models with sinks, or with biases that only their own attention adds, declare it.
    supported: bool = model_class(config, head)._supports_sdpa
    return None if supported else "attention of its own, such as sinks"

"""Models from their folders: sharded while they load, in 4 bits, with adapters, or plain."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import deepspeed
import torch
import transformers
from torch import nn
from transformers.integrations import HfDeepSpeedConfig
from transformers.integrations.deepspeed import unset_hf_deepspeed_config

from rlhf.models.adapters import attach_adapter
from rlhf.models.attention import Attention, choose_attention
from rlhf.models.buffers import restore_derived_buffers
from rlhf.models.causal_lm import read_model_config
from rlhf.models.dropout import disable_dropout
from rlhf.models.heads import Head, compute_in_fp32, config_for
from rlhf.models.lora import LoRAConfig
from rlhf.models.rope import RopeScalingConfig, apply_rope_scaling
from rlhf.models.varlen import register
from rlhf.runtimes.configs import BackendConfig, Precision

register(Attention.varlen)


def load_model(
    path: str,
    head: Head,
    config: BackendConfig,
    zero3: dict[str, Any] | None,
    *,
    lora: LoRAConfig | None,
    rope: RopeScalingConfig,
) -> nn.Module:
    """The model in training precision, dropout off; under ZeRO-3 no rank ever holds all of it.

    A head the folder lacks is 0. With `lora` only the adapters and the head are trainable.
    """
    dtype = torch.bfloat16 if config.precision is Precision.bf16 else torch.float32
    attention = choose_attention(config.attention, config_for(path, head), head, path)
    settings: dict[str, Any] = {"dtype": dtype, "attn_implementation": attention.value}
    if lora is not None and lora.quantize:
        settings |= in_4_bits(dtype)
    # Alive, this object makes from_pretrained shard while it loads; collected too early, ZeRO-3 is silently off.
    sharding = HfDeepSpeedConfig(zero3) if zero3 else None
    model = from_folder(path, head, rope, settings)
    if sharding is not None:
        unset_hf_deepspeed_config()
        restore_derived_buffers(model)
    disable_dropout(model)
    if head is not Head.causal_lm:
        compute_in_fp32(model)
    if config.gradient_checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    return model if lora is None else attach_adapter(model, lora, head)


def load_whole(path: str, head: Head, rope: RopeScalingConfig) -> nn.Module:
    """The model on the CPU, in the precision of its folder."""
    return from_folder(path, head, rope, {"dtype": "auto"})


def load_saved(folder: Path, head: Head, config: BackendConfig) -> nn.Module:
    """Load a saved folder by `from_pretrained`, on the CPU, computing as in training."""
    dtype = torch.bfloat16 if config.precision is Precision.bf16 else torch.float32
    # Kernels of GPUs alone have the numbers of this one.
    asked = None if config.attention is Attention.flash_attention_2 else config.attention
    attention = choose_attention(asked, config_for(str(folder), head), head, str(folder))
    loader = getattr(transformers, head.value)
    model = loader.from_pretrained(str(folder), dtype=dtype, attn_implementation=attention.value).eval()
    if head is not Head.causal_lm:
        compute_in_fp32(model)
    return model


def from_folder(path: str, head: Head, rope: RopeScalingConfig, settings: dict[str, Any]) -> nn.Module:
    config = config_for(path, head)
    apply_rope_scaling(config, rope, path)
    # Absolute: an adapter names its base by it.
    model, found = getattr(transformers, head.value).from_pretrained(
        str(Path(path).resolve()), config=config, output_loading_info=True, **settings
    )
    initialise_missing(model, found["missing_keys"])
    return model


def rounding_of(config: BackendConfig, lora: LoRAConfig | None, model_path: str) -> float:
    """Largest mean absolute difference in nats, or in units of a score, of a model from what is saved of it.

    A merged adapter is rounded to the precision of the base's folder; beneath one in 4 bits the saved base is the
    full-precision one (Dettmers et al. 2023).
    """
    if lora is not None and lora.quantize:
        return 0.5
    exact = config.precision is Precision.fp32
    if lora is not None:
        saved = read_model_config(model_path)
        exact = exact and saved.get("dtype", saved.get("torch_dtype", "float32")) == "float32"
    return 1e-4 if exact else 0.1


def in_4_bits(dtype: torch.dtype) -> dict[str, Any]:
    """NF4 with double quantisation, computing in `dtype` (Dettmers et al. 2023, section 3)."""
    settings = transformers.BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )
    return {"quantization_config": settings}


def initialise_missing(model: nn.Module, names: set[str]) -> None:
    """Give values to what the folder did not hold, the same however the model is sharded.

    The head starts at 0. What lies below it, as an encoder's pooler, is drawn from the config's normal distribution:
    were it 0 as well, no gradient would ever reach either.
    """
    missing = [(name, parameter) for name, parameter in model.named_parameters() if name in names]
    generator = torch.Generator().manual_seed(0)
    deviation = getattr(model.config, "initializer_range", 0.02)
    with torch.no_grad(), deepspeed.zero.GatheredParameters([parameter for _, parameter in missing], modifier_rank=0):
        for name, parameter in missing:
            is_head = parameter.shape[0] == model.config.num_labels or name.endswith("bias")
            parameter.zero_()
            if not is_head:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * deviation)

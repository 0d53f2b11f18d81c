"""LoRA adapters on transformers models, attached, merged and saved through peft."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, TaskType, get_peft_model, set_peft_model_state_dict
from peft.utils import SAFETENSORS_WEIGHTS_NAME
from safetensors.torch import save_file
from torch import Tensor, nn

from rlhf.models.heads import Head
from rlhf.models.lora import ALL_LINEAR, LoRAConfig
from rlhf.types import InputError

ADAPTER_FOLDER = "adapter"
ADAPTER_SEED = 0
"""Every rank draws the same adapters, whole, before any sharding: they do not depend on the number of ranks."""

TASKS = {Head.causal_lm: TaskType.CAUSAL_LM, Head.value: TaskType.TOKEN_CLS, Head.score: TaskType.SEQ_CLS}


def attach_adapter(model: nn.Module, config: LoRAConfig, head: Head, *, in_fp32: bool = False) -> PeftModel:
    """Attach the adapters of `config`, which do not change the outputs yet, to `model`. Only the adapters are
    trainable, and the whole head.

    The adapters have the model's precision unless `in_fp32`. Raises InputError if peft refuses the layers.
    """
    assert config.rank is not None
    heads = [] if head is Head.causal_lm else head_names(model)
    everywhere = config.target_modules == [ALL_LINEAR]
    settings = LoraConfig(
        r=config.rank,
        lora_alpha=config.alpha,  # type: ignore[arg-type]  # any number to peft, annotated int
        lora_dropout=config.dropout,
        target_modules=ALL_LINEAR if everywhere else list(config.target_modules),
        # Layers inside a head that is trained whole get no adapter.
        exclude_modules=rf"({'|'.join(heads)})(\..*)?" if heads else None,
        modules_to_save=heads or None,
        task_type=TASKS[head],
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(ADAPTER_SEED)
        try:
            return get_peft_model(model, settings, autocast_adapter_dtype=in_fp32)
        except ValueError as error:
            # peft refuses, for example, layers whose weights a fused kernel reads directly, bypassing adapters.
            raise InputError(
                f"lora.target_modules={config.target_modules}: a {model.config.model_type} cannot have an adapter "
                f"there ({error}); name layers of its attention or feed-forward, such as q_proj, or set lora.rank=null"
            ) from None


def head_names(model: nn.Module) -> list[str]:
    """Return the names of the model's submodules outside its body that have parameters."""
    parts = model.named_children()
    return [name for name, part in parts if name != model.base_model_prefix and any(True for _ in part.parameters())]


def save_merged(
    folder: Path,
    base: nn.Module,  # whole, on the CPU, in its own precision; changed
    config: LoRAConfig,
    head: Head,
    state: Mapping[str, Tensor],
    *,
    max_shard_size: str,
) -> None:
    """Write `base` with the adapter `state` merged into it to `folder`, and the adapter alone to `folder/adapter`.

    `state` has the names of peft's `get_peft_model_state_dict`.
    """
    model = attach_adapter(base, config, head, in_fp32=True)
    set_peft_model_state_dict(model, dict(state))
    adapter = folder / ADAPTER_FOLDER
    adapter.mkdir(parents=True, exist_ok=True)
    model.peft_config["default"].save_pretrained(str(adapter))
    save_file(dict(state), adapter / SAFETENSORS_WEIGHTS_NAME, metadata={"format": "pt"})
    model.merge_and_unload().save_pretrained(folder, max_shard_size=max_shard_size)

"""Causal architectures of transformers as models of a few thousand parameters, with weights that differ by layer."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel
from transformers.utils.logging import disable_progress_bar

from rlhf.models.buffers import persistent_buffers
from rlhf.models.tiny import character_tokenizer

VOCABULARY, CONTEXT = 64, 128
COMMON: dict[str, Any] = {
    "vocab_size": VOCABULARY, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
    "num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": CONTEXT, "pad_token_id": 0,
    "bos_token_id": None, "eos_token_id": 1,
}  # fmt: skip
"""Common settings; vLLM's kernels need heads of at least 32."""
ALPHABET = "abcdefghijklmnopqrstuvwxyz0123456789 .,?!+-=*/()[]:;'"


def build(folder: Path, model_type: str, settings: Mapping[str, Any], *, seed: int = 0) -> PreTrainedModel:
    """Write an untrained model with a tokenizer to `folder`. Raises whatever transformers raises of its config."""
    disable_progress_bar()
    torch.manual_seed(seed)
    # A setting that an architecture's config lacks, such as the context length, is missing in its folders too.
    defaults = AutoConfig.for_model(model_type)
    common = {key: value for key, value in COMMON.items() if hasattr(defaults, key)}
    config = AutoConfig.for_model(model_type, **{**common, **settings})
    model = AutoModelForCausalLM.from_config(config).float()
    scramble(model, seed + 1)
    model.config.architectures = [type(model).__name__]
    model.save_pretrained(folder)
    character_tokenizer(ALPHABET).save_pretrained(folder)
    return model.eval()


def scramble(model: torch.nn.Module, seed: int) -> None:
    """Change every parameter, including those that start at 0 or 1, and every buffer that belongs to the weights."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            deviation = 0.15 if parameter.dim() > 1 else 0.05
            parameter.add_(torch.randn(parameter.shape, generator=generator) * deviation)
        for _, buffer in persistent_buffers(model):
            if buffer.is_floating_point():
                buffer.mul_(0.7)


HEAD = {"head_dim": 32}
GPT2 = {"n_embd": 64, "n_layer": 2, "n_head": 2, "n_positions": CONTEXT, "bos_token_id": 1}
WINDOW = {"sliding_window": 4}
SCALED = {"query_pre_attn_scalar": 32}
MAMBA = {
    "mamba_n_heads": 8, "mamba_d_head": 16, "mamba_d_state": 16, "mamba_n_groups": 1, "mamba_chunk_size": 16,
}  # fmt: skip
LINEAR_ATTENTION = {
    "layer_types": ["linear_attention", "full_attention"], "linear_num_key_heads": 2, "linear_num_value_heads": 2,
    "linear_key_head_dim": 32, "linear_value_head_dim": 32,
}  # fmt: skip
GEMMA4 = {"global_head_dim": 32, "num_global_key_value_heads": 1, "vocab_size_per_layer_input": VOCABULARY}
LATENT = {
    "q_lora_rank": 16, "kv_lora_rank": 16, "qk_nope_head_dim": 16, "qk_rope_head_dim": 16, "v_head_dim": 32,
    "num_key_value_heads": 2,
}  # fmt: skip
TINY: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {}),
    "llama, tied": ("llama", {"tie_word_embeddings": True}),
    "apertus": ("apertus", {}),
    "bloom": ("bloom", {"n_layer": 2, "n_head": 2}),
    "cohere": ("cohere", {}),
    "cohere2": ("cohere2", WINDOW),
    "ernie4_5": ("ernie4_5", HEAD),
    "exaone4": ("exaone4", {**HEAD, **WINDOW}),
    "falcon": ("falcon", {"new_decoder_architecture": False, "multi_query": True, "alibi": False}),
    "falcon, ALiBi": ("falcon", {"new_decoder_architecture": False, "multi_query": False, "alibi": True}),
    "falcon_h1": ("falcon_h1", {**MAMBA, "mamba_d_ssm": 128}),
    "falcon_mamba": ("falcon_mamba", {"state_size": 16}),
    "gemma": ("gemma", HEAD),
    "gemma2": ("gemma2", {**HEAD, **WINDOW, **SCALED}),
    "gemma3": ("gemma3_text", {**HEAD, **WINDOW, **SCALED}),
    "gemma4": ("gemma4_text", {**HEAD, **WINDOW, **GEMMA4}),
    "glm4": ("glm4", HEAD),
    "gpt2": ("gpt2", GPT2),
    "gptj": ("gptj", {**GPT2, "rotary_dim": 16}),
    "granite": ("granite", {"logits_scaling": 2.0, "embedding_multiplier": 3.0}),
    "granite_swa": ("granite_swa", WINDOW),
    "granitemoehybrid, no experts": (
        "granitemoehybrid",
        {**MAMBA, "num_local_experts": 0, "layer_types": ["mamba", "attention"], "shared_intermediate_size": 64},
    ),
    "hrm_text": ("hrm_text", {}),
    "hyperclovax": ("hyperclovax", {}),
    "lfm2": ("lfm2", {"layer_types": ["conv", "full_attention"], "conv_L_cache": 3}),
    "mamba": ("mamba", {"state_size": 16}),
    "mamba2": ("mamba2", {"state_size": 16, "num_heads": 8, "head_dim": 16, "n_groups": 1, "chunk_size": 16}),
    "minicpm3": ("minicpm3", LATENT),
    "ministral3": ("ministral3", {**HEAD, **WINDOW}),
    "mistral": ("mistral", {**HEAD, **WINDOW}),
    "nemotron": ("nemotron", {}),
    "olmo_hybrid": ("olmo_hybrid", LINEAR_ATTENTION),
    "opt": ("opt", {"ffn_dim": 128, "word_embed_proj_dim": 64}),
    "phi3": ("phi3", {}),
    "qwen2": ("qwen2", {}),
    "qwen3": ("qwen3", {**HEAD, "tie_word_embeddings": True}),
    "qwen3.5": ("qwen3_5_text", {**HEAD, **LINEAR_ATTENTION}),
    "stablelm": ("stablelm", {}),
}
"""Model type, and settings in addition to the common ones, by name."""

"""Causal language models: checks of the model folder, and the readout of logprobs from a micro-batch."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from rlhf.algorithms.base import TokenOutputs, TokenStatistics
from rlhf.models.output_head import head_logprobs, shape_of
from rlhf.models.rope import context_factor
from rlhf.ops.logprobs import is_first_choice, next_token_entropy, next_token_logprobs, sampling_logits
from rlhf.ops.microbatch import MicroBatch
from rlhf.types import InputError


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingDistribution:
    """The distribution over tokens made from logits, the same in learner and engine."""

    temperature: float = 1.0
    banned_token_ids: tuple[int, ...] = ()


class TokenReadout:
    """Logprobs and statistics of a micro-batch's tokens, under the distribution they are sampled from."""

    def __init__(self, distribution: SamplingDistribution, *, statistics: bool = True) -> None:
        """`statistics`: also compute entropies and first choices, which losses report and columns do not need."""
        self.distribution, self.statistics = distribution, statistics

    def __call__(self, model: nn.Module, batch: MicroBatch) -> TokenOutputs:
        own = shape_of(model, batch)
        if own is None:
            return self.from_logits(model, batch)
        banned, temperature = self.distribution.banned_token_ids, self.distribution.temperature
        shape = replace(own, banned_token_ids=banned, temperature=temperature)
        logprobs, statistics = head_logprobs(model, batch, shape, statistics=self.statistics)
        return TokenOutputs(logprobs=logprobs, statistics=statistics)

    def from_logits(self, model: nn.Module, batch: MicroBatch) -> TokenOutputs:
        """Compute the outputs from all logits at once, for a model whose head is not known to be a plain product."""
        # use_cache=False: with a cache transformers does not look for packed sequences, and they would see each other.
        logits = model(input_ids=batch.token_ids, position_ids=batch.position_ids, use_cache=False).logits
        banned = self.distribution.banned_token_ids
        logits = sampling_logits(
            logits,
            temperature=self.distribution.temperature,
            banned_token_ids=torch.tensor(banned, device=logits.device) if banned else None,
        )
        # A prompt may contain banned tokens, with a logprob of minus infinity: 0 where nothing is learnt.
        logprobs = next_token_logprobs(logits, batch.token_ids).masked_fill(~batch.loss_mask, 0.0)
        if not self.statistics:
            return TokenOutputs(logprobs=logprobs)
        # Keeps the logits alone, which the logprobs keep too; a loss that uses the entropy computes it again.
        entropy = checkpoint(next_token_entropy, logits, use_reentrant=False, preserve_rng_state=False)
        first_choice = is_first_choice(logits, batch.token_ids)
        return TokenOutputs(logprobs, TokenStatistics(entropy=entropy, first_choice=first_choice))


def for_columns(readout: Any) -> Any:
    """Return a TokenReadout without the statistics, which columns do not need; any other readout unchanged."""
    return TokenReadout(readout.distribution, statistics=False) if isinstance(readout, TokenReadout) else readout


def read_model_config(path: str) -> dict[str, Any]:
    """Read the `config.json` of a local model folder.

    Raises InputError if the folder has no config.json or no weights, or the model needs remote code.
    """
    folder = Path(path)
    if not (folder / "config.json").is_file() and (folder / "adapter_config.json").is_file():
        settings = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
        raise InputError(
            f"model {path!r}: it is an adapter (LoRA) of {settings.get('base_model_name_or_path')}, not a model; give "
            "the model that it is merged into, for runs of this project the folder above it, or that base"
        )
    if not (folder / "config.json").is_file():
        raise InputError(
            f"model {path!r}: no config.json there; give a local folder in Hugging Face format, or an id of the Hub "
            "such as Qwen/Qwen3-0.6B"
        )
    try:
        config: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"model {path!r}: its config.json is not JSON ({error}); copy it again") from None
    if "auto_map" in config:
        raise InputError(
            f"model {path!r}: it needs its own remote code ({', '.join(sorted(config['auto_map']))}), which is never "
            "run; use a supported successor: GLM-4 for ChatGLM3, Qwen3 for Baichuan2"
        )
    if not any(folder.glob("*.safetensors")):
        raise InputError(f"model {path!r}: no *.safetensors there; save the weights in safetensors format")
    return config


EXPERT_KEYS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")
"""Keys of config files that count the experts of a layer."""


def refuse_experts(path: str, model_config: dict[str, Any]) -> None:
    """Raise InputError for a mixture of experts, which cannot be trained: ranks whose tokens choose different experts
    would wait for each other's collectives for ever (DeepSpeed issue 7461)."""
    settings = model_config.get("text_config", model_config)
    for key in EXPERT_KEYS:
        if (settings.get(key) or 0) > 1:
            raise InputError(
                f"model {path!r}: it is a mixture of experts ({key}={settings[key]}), whose ranks hang under ZeRO; use "
                "a dense model, such as Qwen3-8B instead of Qwen3-30B-A3B"
            )


def check_tensor_parallel(path: str, model_config: dict[str, Any], size: int) -> None:
    """Raise InputError if an engine cannot be spread over `size` accelerators."""
    heads = text_setting(model_config, "num_attention_heads", "n_head")
    if size > 1 and heads % size:
        divisors = ", ".join(str(n) for n in range(1, heads + 1) if heads % n == 0)
        raise InputError(
            f"sampler.tensor_parallel_size={size}: the {heads} attention heads of model {path!r} do not divide by it; "
            f"use one of {divisors}"
        )


def context_length(model_config: dict[str, Any]) -> int:
    """Return the longest sequence that the model was trained for, in tokens."""
    positions = text_setting(model_config, "max_position_embeddings", "n_positions", "seq_length", "max_seq_len")
    return int(positions * context_factor(model_config.get("text_config", model_config)))


def vocab_size(model_config: dict[str, Any]) -> int:
    """Return the number of rows of the embedding, which may exceed the tokenizer's vocabulary."""
    return text_setting(model_config, "vocab_size")


def text_setting(model_config: dict[str, Any], *names: str) -> int:
    """Return the value of the first of `names` that the config, or its text part, has."""
    settings = model_config.get("text_config", model_config)
    for name in names:
        if name in settings:
            return int(settings[name])
    raise InputError(
        f"the model's config.json has no {' or '.join(names)}; use a model that declares it, such as Qwen3 or Llama"
    )

"""Configurations of the training runtime and of the engines. Imports neither."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum
from importlib.util import find_spec

from rlhf.models.attention import Attention
from rlhf.types import InputError

VLLM = "vllm"
"""Name of the engine that is built in."""
ADAPTER_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""Sizes that a vLLM engine has for adapters."""


class Precision(StrEnum):
    """Precision of parameters and activations; the optimiser's copy is fp32 in either."""

    fp32 = "fp32"
    bf16 = "bf16"


class Schedule(StrEnum):
    """Shape of the learning rate after the warm-up."""

    constant = "constant"
    linear = "linear"
    cosine = "cosine"


@dataclass(kw_only=True, slots=True)
class OptimizerConfig:
    """AdamW (Loshchilov and Hutter 2019)."""

    lr: float = 1e-6
    """Peak learning rate."""
    final_lr_fraction: float = 0.0
    """The linear and cosine schedules end at this fraction of `lr`."""
    schedule: Schedule = Schedule.constant
    """`constant`, `linear` or `cosine`, over the run's training steps."""
    warmup_steps: int = 0
    """Training steps over which the learning rate rises linearly from 0."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Decay of the first and second moment."""
    eps: float = 1e-8
    """Added to the root of the second moment."""
    weight_decay: float = 0.0
    """Decoupled weight decay, per unit of learning rate."""
    gradient_clipping: float = 1.0
    """Largest norm of the gradient over all parameters; 0 does not clip."""

    def __post_init__(self) -> None:
        if not 0 < self.lr < math.inf:
            raise InputError(f"optimizer.lr={self.lr}: give a positive number")
        if self.warmup_steps < 0:
            raise InputError(f"optimizer.warmup_steps={self.warmup_steps}: give 0 for none, or more")
        if len(self.betas) != 2 or not all(0 <= beta < 1 for beta in self.betas):
            raise InputError(f"optimizer.betas={list(self.betas)}: give two numbers of at least 0 and below 1")


@dataclass(kw_only=True, slots=True)
class BackendConfig:
    """Settings of a model under DeepSpeed."""

    zero_stage: int = 3
    """ZeRO stage: 1 shards the optimiser's states, 2 gradients too, 3 parameters too."""
    precision: Precision = Precision.bf16
    """fp32 or bf16."""
    attention: Attention | None = None
    """varlen, sdpa, eager or flash_attention_2, which needs a GPU and the flash-attn package. varlen makes no mask of
    T x T for packed rows: PyTorch's variable-length kernels on a GPU in bf16, one sdpa per sequence elsewhere. None:
    varlen, but sdpa for models with attention code of their own (Falcon), and eager for models with a soft cap on
    attention logits (Gemma 2) or sinks, which the others lack; they are refused there."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: a third more compute, far less memory."""
    offload_optimizer: bool = False
    """Keep the optimiser's states in host memory (compiles DeepSpeed's CPU Adam at the first use on a GPU machine).
    Each rank then reserves its share of the node's CPUs, which compute the steps."""
    persistence_threshold: int = 100_000
    """ZeRO-3: a parameter of at most so many elements stays gathered between layers."""
    packed: bool | None = None
    """`true` lays sequences end to end in one row, `false` pads them, which is faster for very short ones on CPU. None:
    end to end where the model scores them so as it scores them alone, which is measured at start, else padded."""
    max_tokens_per_microbatch: int = 8192
    """Tokens, padding included, that go through the model at once; at least the longest sequence. Costs only time."""
    collective_timeout_s: float = 1800.0
    """A rank that waits longer for the others ends the run. Longer than any legitimate wait, such as saving."""

    def __post_init__(self) -> None:
        if self.zero_stage not in (1, 2, 3):
            raise InputError(f"backend.zero_stage={self.zero_stage}: DeepSpeed learners run ZeRO 1, 2 or 3")
        if self.attention is Attention.flash_attention_2 and find_spec("flash_attn") is None:
            raise InputError(
                "backend.attention=flash_attention_2: the package flash-attn is not installed; install it on every "
                "node, or set backend.attention=null"
            )
        if self.max_tokens_per_microbatch < 2:
            raise InputError(
                f"backend.max_tokens_per_microbatch={self.max_tokens_per_microbatch}: set at least the longest sequence"
            )


@dataclass(kw_only=True, slots=True)
class SamplerConfig:
    """Engines that sample rollouts."""

    engine: str = VLLM
    """`vllm`, or what makes an engine of your own: `package.module:Class` or `/path/file.py:Class`. It gets
    these settings, and those that it does not read have no effect."""
    num_engines: int = 1
    """Engines; each serves whole groups, the least loaded first."""
    tensor_parallel_size: int = 1
    """Accelerators one engine is spread over."""
    context_tokens: int = 4096
    """Longest prompt plus completion."""
    max_concurrent_rollouts: int = 256
    """Sequences one engine decodes at once."""
    accelerator_memory_fraction: float = 0.85
    """Share of the accelerator's memory the engine takes (GPU)."""
    kv_cache_bytes: int | None = None
    """Size of the KV cache; None lets vLLM take what the memory fraction leaves. Set it on CPU."""
    eager: bool = False
    """Skip compilation and CUDA graphs: starts faster, decodes slower on a GPU."""

    def __post_init__(self) -> None:
        if self.engine != VLLM and ":" not in self.engine:
            raise InputError(
                f"sampler.engine={self.engine}: give {VLLM}, or an engine of your own, package.module:Class or "
                "/path/file.py:Class"
            )


@dataclass(kw_only=True, slots=True)
class ServerConfig:
    """A vLLM engine that serves a model."""

    precision: Precision = Precision.bf16
    """Precision of weights and arithmetic."""
    context_tokens: int = 4096
    """Longest prompt with its completion."""
    max_num_seqs: int = 64
    """Sequences computed at once; further ones wait in the engine's queue."""
    tensor_parallel_size: int = 1
    """Accelerators it is spread over."""
    accelerator_memory_fraction: float = 0.9
    """Share of an accelerator's memory for weights and KV cache."""
    kv_cache_bytes: int | None = None
    """Size of the KV cache. None: what `accelerator_memory_fraction` leaves; a CPU needs a number."""
    eager: bool = False
    """No compilation and no CUDA graphs: starts faster, decodes slower on a GPU."""
    max_adapters: int = 0
    """LoRA adapters computed at once beside the model; 0 serves none."""
    max_adapter_rank: int = 16
    """Largest rank of an adapter."""
    stream_interval_s: float = 0.05
    """Tokens of a stream that are made within so many seconds are delivered together; the first and the last wait for
    nothing. 0: each by itself, for several times the CPU."""
    tool_call_parser: str | None = None
    """vLLM's parser of the model's tool calls, as in `hermes` for Qwen3: models then call `tools`. None: requests with
    tools are refused, unless their `tool_choice` is `none`."""
    reasoning_parser: str | None = None
    """vLLM's parser that splits the model's reasoning from its answer, as in `qwen3`. None: the answer is all of it."""

"""Memory of an accelerator, computed from a model's shape and a configuration: an estimate, never a measurement."""

from __future__ import annotations

from dataclasses import dataclass

from rlhf.planning.shapes import BYTES, ModelShape
from rlhf.runtimes.configs import BackendConfig, Precision, SamplerConfig

LIVE_PARAMETERS = 1_000_000_000
"""DeepSpeed's stage3_max_live_parameters: the most parameters that ZeRO 3 gathers at once."""
BUCKET_PARAMETERS = 500_000_000
"""DeepSpeed's reduce_bucket_size: gradients that wait to be reduced, in bf16."""
HEAD_SHARE = 0.5
"""Peak of the chunked head, as a share of fp32 logits of all tokens."""
KEPT_FREE = 4e9
"""Bytes for the CUDA context, NCCL, kernels' work space and fragmentation."""
ENGINE_WORK = 3e9
"""Bytes of an engine's activations and CUDA graphs."""
ASLEEP = 1e9
"""Bytes that a process keeps after it has released its memory: its CUDA context."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Footprint:
    """Bytes that one rank holds at its peak."""

    states: float
    """Bytes of the rank's share of weights, gradients and optimiser states."""
    buffers: float
    """Bytes of gathered layers, and of gradients being reduced to the ranks that own them."""
    activations: float
    head: float
    """Bytes of the logits of a chunk and their gradients."""

    @property
    def total(self) -> float:
        return self.states + self.buffers + self.activations + self.head + KEPT_FREE


def learner(
    shape: ModelShape, backend: BackendConfig, num_ranks: int, *, vocabulary: bool = True, lora_rank: int | None = None
) -> Footprint:
    """Estimate a rank that trains a model; `vocabulary` is False for a score or value head instead of the language
    model's."""
    width = 4 if backend.precision is Precision.fp32 else BYTES
    total = parameters(shape, vocabulary=vocabulary)
    adapter = 0 if lora_rank is None else lora_rank * sum(shape.linear_ends)
    trained = total if lora_rank is None else adapter
    held = total + adapter
    weights = width * held / (num_ranks if backend.zero_stage == 3 else 1)
    # Under ZeRO 1 every rank accumulates all gradients in fp32, otherwise only its share.
    gradients = 4 * trained / (1 if backend.zero_stage == 1 else num_ranks)
    optimizer = 0.0 if backend.offload_optimizer else 12 * trained / num_ranks
    gathered = width * min(total, LIVE_PARAMETERS) if backend.zero_stage == 3 and num_ranks > 1 else 0.0
    whole_head = width * shape.head_parameters if vocabulary and lora_rank is None else 0.0
    return Footprint(
        states=weights + gradients + optimizer,
        buffers=gathered + width * min(trained, BUCKET_PARAMETERS) + whole_head,
        activations=activations(shape, backend),
        head=head_bytes(shape, backend) if vocabulary else 0.0,
    )


def frozen_model(shape: ModelShape, backend: BackendConfig, num_ranks: int, *, vocabulary: bool = True) -> Footprint:
    """Estimate a rank of a model used for inference only: a reference, a reward model."""
    total = parameters(shape, vocabulary=vocabulary)
    sharded = backend.zero_stage == 3 and num_ranks > 1
    tokens = backend.max_tokens_per_microbatch
    return Footprint(
        states=BYTES * total / (num_ranks if sharded else 1),
        buffers=float(BYTES * min(total, LIVE_PARAMETERS)) if sharded else 0.0,
        activations=tokens * shape.layer_bytes_per_token,
        head=head_bytes(shape, backend) if vocabulary else 0.0,
    )


def parameters(shape: ModelShape, *, vocabulary: bool) -> int:
    """Count the parameters of a model, or of one whose output head is replaced by a score head."""
    return shape.num_parameters - (0 if vocabulary or shape.tied else shape.head_parameters)


def activations(shape: ModelShape, backend: BackendConfig) -> float:
    """Return the bytes of a micro-batch's activations. Checkpointing keeps every layer's input, and all activations of
    the layer being recomputed, with gradients of about the same size."""
    tokens = backend.max_tokens_per_microbatch
    layer = tokens * shape.layer_bytes_per_token
    if not backend.gradient_checkpointing:
        return (shape.num_layers + 1) * layer
    return shape.num_layers * tokens * shape.hidden_size * BYTES + 2 * layer


def head_bytes(shape: ModelShape, backend: BackendConfig) -> float:
    return HEAD_SHARE * backend.max_tokens_per_microbatch * shape.vocab_size * 4


def engine_bytes(sampler: SamplerConfig, accelerator_bytes: float) -> float:
    return sampler.accelerator_memory_fraction * accelerator_bytes


def cache_tokens(shape: ModelShape, sampler: SamplerConfig, accelerator_bytes: float) -> int:
    """Return the tokens of KV cache that fit in one engine, over its accelerators; negative if the model does not
    fit."""
    each = engine_bytes(sampler, accelerator_bytes) - ENGINE_WORK
    room = sampler.tensor_parallel_size * each - BYTES * shape.num_parameters
    return int(room // shape.kv_bytes_per_token)

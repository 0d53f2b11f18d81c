"""The transport of weights from the learner to the engines: its configuration, and the interface of a carrier."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

import torch
from torch import Tensor

from rlhf.runtimes.buckets import Bucket


class Transport(StrEnum):
    """Carrier of weights from the learner to the engines."""

    object_store = "object_store"
    gloo = "gloo"
    nccl = "nccl"
    cuda_ipc = "cuda_ipc"


@dataclass(kw_only=True, slots=True)
class WeightSyncConfig:
    """Transport of the policy's weights to the engines."""

    transport: Transport | None = None
    """`object_store`: Ray's, through host memory, anywhere. `gloo`, `nccl`: a broadcast in a process group, through
    host memory or between GPUs. `cuda_ipc`: the engine maps the learner's memory; policy and sampler must share
    accelerators. None chooses: with GPUs `cuda_ipc` where they share and `nccl` where they do not, else
    `object_store`."""

    bucket_bytes: int = 1 << 28
    """Parameters are gathered and sent in buckets of about this size."""
    timeout_s: float = 600.0
    """Deadline of one whole synchronisation."""
    probe_tokens: int = 32
    """Length of the probe, the run's first prompts end to end, whose logprobs learner and engine must agree on after
    each synchronisation."""
    probe_tolerance: float | None = None
    """Largest mean absolute difference of the probe's logprobs, in nats; None is 1e-4 for fp32 and 0.3 for bf16."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """Meeting point of sender and receivers."""

    transport: Transport
    host: str
    port: int
    size: int
    """Size of the process group: the sender, whose rank is 0, and every worker of every engine."""
    timeout_s: float


class Carrier(Protocol):
    device: torch.device
    """Device on which a bucket is packed."""
    from_every_rank: bool
    """True if each learner rank sends to the engine that shares its accelerator, false if rank 0 sends to all."""

    def send(self, bucket: Bucket, flat: Tensor) -> Iterator[Bucket]: ...
    def receive(self, bucket: Bucket) -> Tensor:
        """The flat bytes, to be kept while parameters view them."""

    def release(self) -> None:
        """Give back what the sender kept for the receivers, once none of them holds any of it."""

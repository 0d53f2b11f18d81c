"""The transport of weights from the learner to the engines: its configuration, and the interface of a carrier."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

import torch
from torch import Tensor

from rlhf.runtimes.buckets import Bucket
from rlhf.types import InputError


class Transport(StrEnum):
    """Transports that are built in."""

    object_store = "object_store"
    gloo = "gloo"
    nccl = "nccl"
    cuda_ipc = "cuda_ipc"


class AdapterForm(StrEnum):
    """Form in which an adapter reaches the engines."""

    merged = "merged"
    alone = "alone"


@dataclass(kw_only=True, slots=True)
class WeightSyncConfig:
    """Transport of the policy's weights to the engines."""

    transport: str | None = None
    """`object_store`: Ray's, through host memory, anywhere. `gloo`, `nccl`: a broadcast in a process group, through
    host memory or between GPUs. `cuda_ipc`: the engine maps the learner's memory; policy and sampler must share
    accelerators. Or a carrier of your own: `package.module:Class` or `/path/file.py:Class`. None chooses: with GPUs
    `cuda_ipc` where they share and `nccl` where they do not, else `object_store`."""

    adapter: AdapterForm = AdapterForm.merged
    """Form in which the adapter of `lora.rank` reaches the engines: `merged` into whole weights, or `alone`, which is a
    hundredth of the bytes, while engines compute it beside the base at every token. `alone` travels through Ray's
    object store to a folder in each engine's node memory (/dev/shm), where vLLM reads it."""
    bucket_bytes: int = 1 << 28
    """Parameters are gathered and sent in buckets of about this size."""
    timeout_s: float = 600.0
    """Deadline of one whole synchronisation."""
    probe_tokens: int = 32
    """Length of the probe, the run's first prompts end to end, whose logprobs learner and engine must agree on after
    each synchronisation."""
    probe_tolerance: float | None = None
    """Largest mean absolute difference of the probe's logprobs, in nats; None is 1e-4 for fp32 and 0.3 for bf16."""

    def __post_init__(self) -> None:
        if self.transport is not None and self.transport not in set(Transport) and ":" not in self.transport:
            raise InputError(
                f"weight_sync.transport={self.transport}: choose one of {', '.join(Transport)}, or name a carrier of "
                "your own, package.module:Class or /path/file.py:Class"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """Meeting point of sender and receivers."""

    transport: str
    """Name of a `Transport`, or of a class of the user's own."""
    host: str
    port: int
    size: int
    """Size of the process group: the sender, whose rank is 0, and every worker of every engine."""
    timeout_s: float


class Carrier(Protocol):
    """One end of the way of weights. A class of the user's own is made as `Class(link, rank)`: with rank 0 beside the
    learner, with a rank from 1 in each worker of each engine."""

    device: torch.device
    """Device on which a bucket is packed."""
    from_every_rank: bool
    """True if each learner rank sends to the engine that shares its accelerator, false if rank 0 sends to all. An
    attribute of the class."""

    def send(self, bucket: Bucket, flat: Tensor) -> Iterator[Bucket]:
        """Yield the bucket for the driver to pass on, with what `receive` needs in `buffer` or `handle`. The driver
        asks for further ones before the engines have received this one."""

    def receive(self, bucket: Bucket) -> Tensor:
        """Return the flat bytes, to be kept while parameters view them. Their checksum is compared afterwards."""

    def release(self) -> None:
        """Give back what the sender kept for the receivers, once none of them holds any of it."""

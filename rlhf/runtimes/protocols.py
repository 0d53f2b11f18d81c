"""Protocols of the training runtime and of the engine that the loop needs. Imports neither."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np
from torch import Tensor, nn

from rlhf.environments.base import Sampler
from rlhf.models.heads import Head
from rlhf.ops.microbatch import MicroBatch
from rlhf.runtimes.buckets import Bucket
from rlhf.runtimes.transport import Carrier, Link
from rlhf.types import RunError

T = TypeVar("T")
OutputsT = TypeVar("OutputsT")
OutputsT_co = TypeVar("OutputsT_co", covariant=True)


class EngineDied(RunError):
    """An engine that will never answer again."""


class Readout(Protocol[OutputsT_co]):
    """Outputs of one kind of model, read from a micro-batch."""

    def __call__(self, model: nn.Module, batch: MicroBatch) -> OutputsT_co: ...


class Backend(Protocol):
    """One rank of a model under training. Every rank calls the same methods in the same order."""

    rank: int
    num_ranks: int
    head: Head
    rounding: float
    """Largest mean absolute difference of a model's outputs, in nats or units of a score, that saving it may make."""

    def forward(self, batch: MicroBatch, readout: Readout[OutputsT], *, grad: bool) -> OutputsT: ...
    def backward(self, loss: Tensor, *, last: bool) -> None:
        """Add the gradient of this rank's share of the loss; the step's gradient is the sum over ranks. `last` on the
        last micro-batch before `step`, on which every rank must agree."""

    def step(self, lr: float) -> tuple[float, bool]:
        """One optimiser step: the gradient's norm before clipping, and whether it was applied (it was finite)."""

    def gather(self, value: T) -> list[T]:
        """The small values of all ranks, in their order."""

    def weights(self, bucket_bytes: int, carrier: Carrier | None = None) -> Iterator[Bucket]:
        """The whole model's parameters in buckets, as `carrier` sends them, None within the buckets. A rank that sends
        none iterates along."""

    def offload(self) -> int:
        """Move everything to host memory; the bytes of memory still in use here."""

    def onload(self) -> int:
        """Undo `offload`; the bytes of memory in use here."""

    def save(self, folder: Path) -> None: ...
    def load(self, folder: Path) -> None: ...
    def save_pretrained(self, folder: Path) -> None: ...

    def load_saved(self, folder: Path) -> nn.Module:
        """Load what `save_pretrained` wrote by `from_pretrained`, on the CPU."""


class Engine(Sampler, Protocol):
    """A sampler whose weights can be replaced."""

    async def connect(self, link: Link, first_rank: int) -> None:
        """Meet the sender: this engine's workers have the ranks from `first_rank` on."""

    async def expect_weights(self) -> None:
        """New weights come before the next request: the next `offload` need not keep the old ones."""

    async def offload(self) -> int:
        """Give weights and cache back; the bytes of memory still in use here. Raises RunError between `load_begin` and
        `load_finish`."""

    async def onload(self) -> int:
        """Take memory and weights again; the bytes of memory in use here."""

    async def load_begin(self) -> None:
        """Stop sampling: from here to `load_finish` the weights are torn. An offloaded engine takes room for them."""

    async def load(self, bucket: Bucket) -> None:
        """Check the bucket's bytes against its checksum and take its parameters over."""

    async def load_finish(self, version: int) -> None:
        """Complete the new weights, forget what was cached under the old ones, sample on as `version`."""

    async def logprobs(self, token_ids: Sequence[int]) -> np.ndarray:
        """Log probability of each token given those before it, [T] float32; 0 for the first."""

    async def memory(self) -> int:
        """The most memory that one of its accelerators has held since it started, in bytes."""

    async def close(self) -> None:
        """Give back what the engine holds; it samples no more."""

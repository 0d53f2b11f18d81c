"""Protocols of the training runtime and of the engine that the loop needs. Imports neither."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
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

    def weights(
        self, bucket_bytes: int, carrier: Carrier | None = None, *, adapter_alone: bool = False
    ) -> Iterator[Bucket]:
        """The whole model's parameters, an adapter merged into them, or the adapter alone, in buckets, as `carrier`
        sends them, None within the buckets. A rank that sends none iterates along."""

    def without_adapter(self) -> AbstractContextManager[None]:
        """Switch the adapter off, so that `forward` runs the base model."""

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
    """A sampler whose weights can be replaced. It lives in a Ray actor, on the event loop of the environment and the
    rewards: what takes long belongs in a thread.

    One of the user's own is made as `Class(model_path, config, precision, *, banned_token_ids, stop_token_ids,
    takes_turns)`, with a `SamplerConfig` and a `Precision`, and has version 0 then. `takes_turns`: it shares its
    accelerators, and is offloaded while others work.

    `generate` is called for many rollouts at once. It draws each token from softmax(logits / temperature) over the ids
    that are not banned, with neither top-p nor top-k; the first choice at temperature 0. It ends with a stop id, which
    belongs to the completion (`stop`), or at `max_tokens` (`length`). Equal seed, weights and prompt give equal tokens,
    whatever is sampled beside them. The `Completion` holds the log probability of each token under the distribution
    that it was drawn from, and the version of the weights that chose it, which may differ within a completion. Whatever
    it raises makes that rollout a failure; RunError ends the run, EngineDied if the engine answers no more.
    """

    async def connect(self, link: Link, first_rank: int) -> None:
        """Meet the sender with `make_carrier(link, rank)`: this engine's workers have the ranks from `first_rank` on,
        one per accelerator. Until then bytes arrive with the buckets, as `ObjectStoreCarrier` receives them."""

    async def expect_weights(self) -> None:
        """New weights come before the next request: the next `offload` need not keep the old ones."""

    async def offload(self) -> int:
        """Give weights and cache back; the bytes of memory still in use here. Raises RunError between `load_begin` and
        `load_finish`."""

    async def onload(self) -> int:
        """Take memory and weights again; the bytes of memory in use here."""

    async def load_begin(self) -> None:
        """Stop sampling: from here to `load_finish` the weights are torn, and rollouts under way wait. An offloaded
        engine takes room for the weights."""

    async def load(self, bucket: Bucket) -> None:
        """Check the bucket's bytes against its checksum and take its parameters over: `unpack(bucket,
        carrier.receive(bucket))` raises RunError or yields them. Names are those of `named_parameters` in transformers;
        a tied head is not among them. The bytes are given up as soon as their parameters are copied."""

    async def load_finish(self, version: int) -> None:
        """Complete the new weights, forget what was cached under the old ones, sample on as `version`, rollouts under
        way too."""

    async def logprobs(self, token_ids: Sequence[int]) -> np.ndarray:
        """Log probability of each token given those before it, [T] float32; 0 for the first. Of the model itself: at
        temperature 1, no id banned. The run compares it with the learner's after each synchronisation."""

    async def memory(self) -> int:
        """The most memory that one of its accelerators has held since it started, in bytes."""

    async def close(self) -> None:
        """Give back what the engine holds; it samples no more."""

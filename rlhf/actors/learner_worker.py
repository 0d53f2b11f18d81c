"""One rank of a model, as a Ray actor: an adapter of `train.learner` and the backend."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import ray

from rlhf.actors.nodes import free_address
from rlhf.algorithms.base import Algorithm, Loss
from rlhf.models.causal_lm import SamplingDistribution, TokenReadout, read_model_config, vocab_size
from rlhf.models.heads import Head
from rlhf.models.lora import LoRAConfig
from rlhf.models.value_model import ValueReadout
from rlhf.runtimes.buckets import Bucket
from rlhf.runtimes.carriers import ObjectStoreCarrier, carrier_class, make_carrier
from rlhf.runtimes.configs import BackendConfig, OptimizerConfig
from rlhf.runtimes.imports import paused_collector
from rlhf.runtimes.memory import peak_memory_bytes
from rlhf.runtimes.transport import Carrier, Link
from rlhf.train.artifact import FileRecords, files_in, files_of_rank, record
from rlhf.train.layout import Exactness, measure_exactness
from rlhf.train.learner import Learner
from rlhf.train.sharding import Shard
from rlhf.train.stats import Stats
from rlhf.train.verify import SavedModel, verify_saved


@dataclass(frozen=True, slots=True, kw_only=True)
class LearnerSpec:
    """Specification of a rank."""

    model_path: str
    backend: BackendConfig
    optimizer: OptimizerConfig | None
    """Settings of the optimiser; None for a frozen model."""
    distribution: SamplingDistribution
    """Distribution for policy logprobs; unused by a critic."""
    head: Head = Head.causal_lm
    lora: LoRAConfig = field(default_factory=LoRAConfig)


class LearnerWorker:
    def address(self) -> tuple[str, int]:
        """Return an address for the ranks' rendezvous."""
        return free_address()

    def start(self, spec: LearnerSpec, rank: int, num_ranks: int, address: tuple[str, int]) -> Exactness:
        """Load the model; return the exactness of its layouts. `use_layout` must precede the first column."""
        # Ray shows an actor only its own accelerators, so its device is always the first.
        host, port = address
        ranks = {"RANK": rank, "WORLD_SIZE": num_ranks, "LOCAL_RANK": 0, "MASTER_ADDR": host, "MASTER_PORT": port}
        os.environ.update({name: str(value) for name, value in ranks.items()})
        # Imported here: it takes seconds, and its accelerator is chosen from the environment above.
        with paused_collector():
            from rlhf.runtimes.deepspeed_backend import DeepSpeedBackend

        self.backend = DeepSpeedBackend(spec.model_path, spec.backend, spec.optimizer, spec.head, spec.lora)
        self.carrier: Carrier = ObjectStoreCarrier()
        self.plain_readout = ValueReadout() if spec.head is Head.value else TokenReadout(SamplingDistribution())
        readout = ValueReadout() if spec.head is Head.value else TokenReadout(spec.distribution)
        self.learner = Learner(self.backend, readout, packed=False, fetch=ray.get)
        return measure_exactness(self.backend, readout, vocab_size(read_model_config(spec.model_path)))

    def use_layout(self, packed: bool) -> None:
        self.learner.packed = packed

    def compute_columns(self, shard: Shard) -> Any:
        return as_returns(self.learner.compute_columns(shard), None)

    def compute_base_columns(self, shard: Shard) -> Any:
        """Compute the columns of the base model, with the adapter off."""
        with self.backend.without_adapter():
            return self.compute_columns(shard)

    def assign_credit(self, shard: Shard, algorithm: Algorithm) -> Any:
        columns, stats = self.learner.assign_credit(shard, algorithm)
        return as_returns(list(itertools.chain.from_iterable(columns.values())), stats)

    def update(self, shard: Shard, loss: Loss, lr: float) -> Stats:
        return self.learner.update(shard, loss, lr)

    def evaluate(self, shard: Shard, loss: Loss) -> Stats:
        """Compute this rank's share of a loss of the model's own distribution, without temperature and bans."""
        return replace(self.learner, readout=self.plain_readout).evaluate(shard, loss)

    def connect(self, link: Link, rank: int) -> None:
        """Open this rank's connection to the engines, if it has one, and close the one before: engines that wait in a
        group that has lost a member get an error then."""
        self.carrier = ObjectStoreCarrier()
        if rank == 0 or carrier_class(link.transport).from_every_rank:
            self.carrier = make_carrier(link, rank=0)

    def weights(self, bucket_bytes: int, adapter_alone: bool = False) -> Iterator[Bucket]:
        yield from self.backend.weights(bucket_bytes, self.carrier, adapter_alone=adapter_alone)

    def release_sent(self) -> None:
        self.carrier.release()

    def probe(self, token_ids: list[int]) -> np.ndarray:
        return self.learner.probe(token_ids)

    def offload(self) -> int:
        return self.backend.offload()

    def onload(self) -> int:
        return self.backend.onload()

    def memory(self) -> int:
        return peak_memory_bytes()

    def save(self, folder: Path) -> FileRecords:
        self.backend.save(folder)
        return record(files_of_rank(folder, self.backend.rank))

    def load(self, folder: Path) -> None:
        self.backend.load(folder)

    def save_pretrained(self, folder: Path, probe: list[int] | None) -> SavedModel:
        """Save the model, and with `probe`, the token ids of a row, verify the folder."""
        self.backend.save_pretrained(folder)
        verification = None if probe is None else verify_saved(folder, self.backend, self.plain_readout, probe)
        return SavedModel(verification=verification, records=record(files_in(folder)) if self.backend.rank == 0 else {})


def as_returns(columns: list[np.ndarray], summary: Any) -> Any:
    """Return the values of a method called with `num_returns=len(columns) + 1`: with one, Ray would keep the tuple."""
    return (*columns, summary) if columns else summary

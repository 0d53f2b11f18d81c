"""What a learner keeps of the buckets it sends, and when it gives it back."""

import gc
import weakref
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from rlhf.runtimes.buckets import Bucket
from rlhf.runtimes.carriers import CudaIPCCarrier, ObjectStoreCarrier
from rlhf.runtimes.configs import BackendConfig, Precision


class WatchedCarrier(ObjectStoreCarrier):
    """Counts the buckets whose bytes are alive each time one is sent."""

    def __init__(self) -> None:
        self.sent: list[weakref.ref[Tensor]] = []
        self.most = 0

    def send(self, bucket: Bucket, flat: Tensor) -> Iterator[Bucket]:
        self.sent.append(weakref.ref(flat))
        gc.collect()
        self.most = max(self.most, sum(flat() is not None for flat in self.sent))
        yield from super().send(bucket, flat)


def test_at_most_two_buckets_are_alive(models: dict[str, Path], one_rank: None) -> None:
    from rlhf.runtimes.deepspeed_backend import DeepSpeedBackend

    backend = DeepSpeedBackend(str(models["tied"]), BackendConfig(precision=Precision.fp32), None)
    carrier = WatchedCarrier()
    gc.freeze()  # a collection looks at what is made from here on, not at all of torch
    num_buckets = sum(1 for _ in backend.weights(50_000, carrier))
    gc.unfreeze()
    assert num_buckets > 4
    assert len(carrier.sent) == num_buckets
    assert 1 <= carrier.most <= 2


def test_what_an_engine_mapped_is_collected_before_memory_is_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr("rlhf.runtimes.carriers.reduce_tensor", lambda flat: (id, (flat,)))
    carrier = CudaIPCCarrier()
    monkeypatch.setattr(torch.cuda, "ipc_collect", lambda: calls.append(f"collect, {len(carrier.kept)} kept"))
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: calls.append("empty the cache"))
    bucket = Bucket(names=(), dtypes=(), shapes=(), offsets=(), num_bytes=8, checksum="")
    for _ in range(3):
        list(carrier.send(bucket, torch.zeros(8, dtype=torch.uint8)))
    assert len(carrier.kept) == 3
    carrier.release()
    assert calls == ["collect, 0 kept", "empty the cache"]

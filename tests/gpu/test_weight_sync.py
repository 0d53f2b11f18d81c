"""Weights over every transport: each bucket's checksum holds in the engine, and the engine samples the policy."""

import pytest
import torch

from tests.gpu.conftest import Runs
from tests.gpu.test_colocation import BF16_NATS

pytestmark = pytest.mark.timeout(1000)
TOGETHER = ["placement.colocate=[[policy,reference,sampler]]", "sampler.accelerator_memory_fraction=0.3"]
APART = ["algorithm.kl_coef=0.0", "stream.max_staleness=1"]


@pytest.mark.parametrize(
    ("transport", "placed", "num_gpus"),
    [("cuda_ipc", TOGETHER, 1), ("object_store", TOGETHER, 1), ("nccl", APART, 2), ("object_store", APART, 2)],
    ids=["cuda_ipc", "object_store together", "nccl", "object_store apart"],
)
def test_the_engine_samples_the_policy(train: Runs, transport: str, placed: list[str], num_gpus: int) -> None:
    if torch.cuda.device_count() < num_gpus:
        pytest.skip(f"needs {num_gpus} GPUs")
    # A sync checks every bucket's bytes and probes the engine; either ends the run.
    rows = train("run", *placed, f"weight_sync.transport={transport}", "train.num_steps=5")
    assert len(rows) == 5
    if placed is TOGETHER:
        assert max(row["train/rollout_ratio_deviation_max"] for row in rows) < BF16_NATS
    held = [row["memory_bytes/policy"] for row in rows]
    assert held[-1] <= 1.2 * held[1], "a sync leaves memory behind"

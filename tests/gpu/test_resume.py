"""A run that ended and is given more steps goes on from its checkpoint on the GPU."""

import pytest

from tests.gpu.conftest import Runs

pytestmark = pytest.mark.timeout(2000)
TOGETHER = ["placement.colocate=[[policy,reference,sampler]]", "sampler.accelerator_memory_fraction=0.3"]


def test_a_run_goes_on_from_its_checkpoint(train: Runs) -> None:
    first = train("run", *TOGETHER, "train.num_steps=2", "checkpoint.every=1", "optimizer.schedule=constant")
    both = train("run", *TOGETHER, "train.num_steps=4", "checkpoint.every=1", "optimizer.schedule=constant")
    assert [row["step"] for row in both] == [0, 1, 2, 3]
    assert [row["reward"] for row in both[:2]] == [row["reward"] for row in first]
    assert all(row["train/skipped_updates"] == 0 for row in both)

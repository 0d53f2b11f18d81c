"""Roles that share one GPU by turns: nobody touches memory that was given back, and the numbers are right."""

import pytest

from tests.gpu.conftest import Runs

pytestmark = pytest.mark.timeout(1000)
BF16_NATS = 0.3
EVERYONE = "[[policy,critic,reference,sampler]]"


def test_four_models_share_a_gpu(train: Runs) -> None:
    rows = train("run", "algorithm=ppo", f"placement.colocate={EVERYONE}", "sampler.accelerator_memory_fraction=0.3")
    assert len(rows) == 3
    for row in rows:
        assert row["train/rollout_ratio_deviation_max"] < BF16_NATS
        for role in ("policy", "critic", "sampler"):
            assert row[f"bytes_after_offload/{role}"] < row[f"bytes_after_onload/{role}"]

"""A learner gives its GPU memory back and takes it again, and trains on as if it had stayed."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rlhf.runtimes.configs import BackendConfig, OptimizerConfig, Precision
from tests.gpu.conftest import apart, become_the_only_rank

MOST_LEFT_BYTES = 3 << 29
"""CUDA's context and what its libraries keep, 1.5 GiB."""


def train(model: Path, moves: bool) -> tuple[list[float], list[int]]:
    """Losses of four steps, and the bytes in use while the learner was away, beside those of other programs."""
    become_the_only_rank()
    # The backward of attention adds in any order unless it is told not to, and losses would differ in their last bits.
    os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"
    torch.use_deterministic_algorithms(True, warn_only=True)
    from rlhf.algorithms.sft import SFTLoss
    from rlhf.models.causal_lm import SamplingDistribution, TokenReadout
    from rlhf.runtimes.deepspeed_backend import DeepSpeedBackend
    from rlhf.runtimes.memory import used_bytes
    from rlhf.train.batching import deal, packing_of
    from rlhf.train.learner import Learner
    from rlhf.train.offline import as_group
    from rlhf.types import TrainingRow

    others = used_bytes()
    config = BackendConfig(precision=Precision.bf16, packed=True, max_tokens_per_microbatch=256)
    backend: Any = DeepSpeedBackend(str(model), config, OptimizerConfig(lr=1e-3))
    learner = Learner(backend, TokenReadout(SamplingDistribution()), packed=True)
    generator = np.random.default_rng(0)
    ids = [generator.integers(3, 14, 40).astype(np.int32) for _ in range(8)]
    rows = [TrainingRow(token_ids=row, loss_mask=np.arange(40) > 10) for row in ids]
    losses, away = [], []
    for step in range(4):
        if moves:
            away.append(backend.offload() - others)
            backend.onload()
        packing = packing_of(config, num_ranks=1)
        groups = [as_group((row,)) for row in rows]
        batch = deal(groups, step=step, num_minibatches=1, num_epochs=1, packing=packing, seed=0)
        stats = learner.update(learner.shard(batch, SFTLoss()), SFTLoss(), 1e-3)
        losses.append(stats.sums["loss"][0])
    return losses, away


@pytest.mark.timeout(600)
def test_training_goes_on_where_it_was(wide_model: Path) -> None:
    losses, away = apart(train, wide_model, True)
    assert max(away) < MOST_LEFT_BYTES
    assert len(set(losses)) == 4
    assert losses == apart(train, wide_model, False)[0]

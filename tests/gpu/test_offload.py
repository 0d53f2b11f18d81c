"""A learner gives its GPU memory back and takes it again, and trains on as if it had stayed."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rlhf.models.tiny import build_tiny_model
from rlhf.runtimes.base import BackendConfig, OptimizerConfig, Precision

MOST_LEFT_BYTES = 3 << 29
"""CUDA's context and what its libraries keep, 1.5 GiB."""
WIDE = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 8, "num_attention_heads": 8,
        "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 64_000}  # fmt: skip


@pytest.fixture(scope="module")
def wide_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """About 200 million parameters, 3.2 GB of them with gradients and optimiser."""
    folder = tmp_path_factory.mktemp("wide")
    build_tiny_model(folder, alphabet="0123456789+=", shape=WIDE)
    return folder


def train(model: Path, moves: bool) -> tuple[list[float], list[int]]:
    """Losses of four steps, and the bytes in use while the learner was away."""
    from rlhf.algorithms.sft import SFTLoss
    from rlhf.models.causal_lm import SamplingDistribution, TokenScorer
    from rlhf.runtimes.deepspeed_backend import DeepSpeedBackend
    from rlhf.train.batching import deal, packing_of
    from rlhf.train.learner import Learner
    from rlhf.train.offline import as_group
    from rlhf.types import TrainingRow

    config = BackendConfig(precision=Precision.bf16, packed=True, max_tokens_per_microbatch=256)
    backend: Any = DeepSpeedBackend(str(model), config, OptimizerConfig(lr=1e-3))
    learner = Learner(backend, TokenScorer(SamplingDistribution()), packed=True)
    generator = np.random.default_rng(0)
    ids = [generator.integers(3, 14, 40).astype(np.int32) for _ in range(8)]
    rows = [TrainingRow(token_ids=row, loss_mask=np.arange(40) > 10) for row in ids]
    losses, away = [], []
    for step in range(4):
        if moves:
            away.append(backend.offload())
            backend.onload()
        packing = packing_of(config, num_ranks=1)
        groups = [as_group((row,)) for row in rows]
        batch = deal(groups, step=step, num_minibatches=1, num_epochs=1, packing=packing, seed=0)
        losses.append(learner.update(batch, SFTLoss(), 1e-3).sums["loss"][0])
    return losses, away


@pytest.mark.timeout(600)
def test_training_goes_on_where_it_was(wide_model: Path, one_rank: None) -> None:
    _, away = moved = train(wide_model, moves=True)
    assert max(away) < MOST_LEFT_BYTES
    assert len(set(moved[0])) == 4
    torch.cuda.empty_cache()
    assert moved[0] == train(wide_model, moves=False)[0]

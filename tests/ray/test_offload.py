"""A model that leaves its accelerator and comes back is the model it was."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rlhf.runtimes.configs import BackendConfig, OptimizerConfig, Precision
from tests.ray.test_sharding import make_rows


def train_on_rank(model: str, precision: Precision, moves: bool) -> tuple[list[float], dict[str, np.ndarray]]:
    """Two steps of two minibatches, the model away before, between and after them."""
    from rlhf.algorithms.sft import SFTLoss
    from rlhf.models.causal_lm import SamplingDistribution, TokenReadout
    from rlhf.runtimes.buckets import unpack
    from rlhf.runtimes.deepspeed_backend import DeepSpeedBackend
    from rlhf.train.batching import deal, packing_of
    from rlhf.train.learner import Learner
    from rlhf.train.offline import as_group
    from rlhf.types import TrainingRow

    config = BackendConfig(precision=precision, packed=True, max_tokens_per_microbatch=64)
    backend = DeepSpeedBackend(model, config, OptimizerConfig(lr=1e-3))
    learner = Learner(backend, TokenReadout(SamplingDistribution()), packed=True)
    rows = [
        TrainingRow(token_ids=row.token_ids, loss_mask=row.loss_mask & (np.arange(len(row.loss_mask)) > 0))
        for row in make_rows(3, 8)
    ]
    figures = []
    for step in range(2):
        if moves:
            assert backend.offload() > 0
            assert backend.onload() > 0
        groups = [as_group((row,)) for row in rows]
        packing = packing_of(config, num_ranks=2)
        batch = deal(groups, step=step, num_minibatches=2, num_epochs=1, packing=packing, seed=0)
        stats = learner.update(learner.shard(batch, SFTLoss()), SFTLoss(), 1e-3)
        figures += [stats.sums["loss"][0], stats.values()["gradient_norm"]]
    if moves:
        backend.offload()
        backend.onload()
    weights = {name: p.float().numpy().copy() for bucket in backend.weights(1 << 20) for name, p in unpack(bucket)}
    return figures, weights


@pytest.mark.parametrize("precision", list(Precision))
def test_training_goes_on_where_it_was_bit_for_bit(
    on_ranks: Any, models: dict[str, Path], precision: Precision
) -> None:
    stayed, moved = (on_ranks(train_on_rank, str(models["tied"]), precision, moves) for moves in (False, True))
    for (figures, weights), (expected, expected_weights) in zip(moved, stayed, strict=True):
        assert figures == expected
        assert weights.keys() == expected_weights.keys()
        assert all((weights[name] == expected_weights[name]).all() for name in weights)


def score_on_rank(model: str, num_moves: int) -> np.ndarray:
    from rlhf.models.causal_lm import SamplingDistribution, TokenReadout
    from rlhf.runtimes.deepspeed_backend import DeepSpeedBackend
    from rlhf.train.learner import Learner

    backend = DeepSpeedBackend(model, BackendConfig(precision=Precision.fp32), None)
    learner = Learner(backend, TokenReadout(SamplingDistribution()), packed=True)
    for _ in range(num_moves):
        backend.offload()
        backend.onload()
    return learner.probe([5, 6, 7, 30, 31, 4])


def test_a_sharded_reference_says_the_same(on_ranks: Any, models: dict[str, Path]) -> None:
    stayed, moved = (on_ranks(score_on_rank, str(models["tied"]), num_moves) for num_moves in (0, 2))
    for found, expected in zip(moved, stayed, strict=True):
        assert found.any()
        assert (found == expected).all()

"""Perplexity of text on one and two ranks of DeepSpeed, packed and padded, equals transformers in double precision."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rlhf.runtimes.configs import BackendConfig, OptimizerConfig, Precision
from rlhf.types import TrainingRow, Unit


def units_of(seed: int, num_rows: int) -> list[Unit]:
    generator = np.random.default_rng(seed)
    ids = [generator.integers(3, 60, length).astype(np.int32) for length in generator.integers(2, 40, num_rows)]
    return [(TrainingRow(token_ids=each, loss_mask=np.arange(len(each)) > 0),) for each in ids]


def measure_on_rank(model: str, config: BackendConfig, units: list[Unit], num_ranks: int) -> tuple[Any, bool]:
    """Statistics of one rank, and whether its parameters are as they were."""
    from rlhf.algorithms.sft import SFTLoss
    from rlhf.models.causal_lm import SamplingDistribution, TokenReadout
    from rlhf.runtimes.buckets import unpack
    from rlhf.runtimes.deepspeed_backend import DeepSpeedBackend
    from rlhf.train.batching import packing_of
    from rlhf.train.learner import Learner
    from rlhf.train.perplexity import text_batch
    from rlhf.types import Reference

    backend = DeepSpeedBackend(model, config, OptimizerConfig(lr=1e-3))
    learner = Learner(backend, TokenReadout(SamplingDistribution()), packed=bool(config.packed))

    def weights() -> dict[str, np.ndarray]:
        return {name: p.float().numpy().copy() for bucket in backend.weights(50_000) for name, p in unpack(bucket)}

    before = weights()
    batch = text_batch(units, packing_of(config, num_ranks), Reference)
    stats = learner.evaluate(learner.shard(batch, SFTLoss()), SFTLoss())
    after = weights()
    return stats.sums["loss"], all((after[name] == before[name]).all() for name in before)


def nats_of(model: str, units: list[Unit]) -> float:
    """Loss of transformers, row by row in double precision, over all predicted tokens."""
    import torch
    from transformers import AutoModelForCausalLM

    network = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float64)
    total = num_tokens = 0.0
    for (row,) in units:
        ids = torch.tensor(row.token_ids, dtype=torch.long).unsqueeze(0)
        with torch.no_grad():
            total += network(input_ids=ids, labels=ids).loss.item() * row.num_loss_tokens
        num_tokens += row.num_loss_tokens
    return total / num_tokens


@pytest.mark.parametrize(("packed", "tokens"), [(True, 64), (False, 100), (True, 4096)])
def test_one_and_two_ranks_equal_transformers_in_double_precision(
    on_one_rank: Any, on_ranks: Any, models: dict[str, Path], packed: bool, tokens: int
) -> None:
    model, units = str(models["tied"]), units_of(0, 11)
    expected = nats_of(model, units)
    for ranks, num_ranks in ((on_one_rank, 1), (on_ranks, 2)):
        config = BackendConfig(precision=Precision.fp32, zero_stage=3, packed=packed, max_tokens_per_microbatch=tokens)
        shares = ranks(measure_on_rank, model, config, units, num_ranks)
        nats = sum(total for (total, _), _ in shares) / sum(weight for (_, weight), _ in shares)
        assert nats == pytest.approx(expected, rel=1e-6)
        assert math.exp(nats) == pytest.approx(math.exp(expected), rel=1e-5)
        assert all(is_same for _, is_same in shares)

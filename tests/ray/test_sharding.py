"""Sharding changes nothing: ZeRO 1 to 3 on two ranks, packed or padded, any micro-batch size, equal one AdamW."""

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rlhf.models.lora import LoRAConfig
from rlhf.runtimes.configs import BackendConfig, OptimizerConfig, Precision
from rlhf.types import TrainingRow
from tests.oracles import adamw

LR = 1e-3


def make_rows(seed: int, num_rows: int) -> list[TrainingRow]:
    generator = np.random.default_rng(seed)
    rows = []
    for length in generator.integers(4, 40, num_rows):
        mask = np.arange(length) >= generator.integers(1, length)
        rows.append(TrainingRow(token_ids=generator.integers(3, 60, length).astype(np.int32), loss_mask=mask))
    return rows


def train_on_rank(model: str, config: BackendConfig, steps: list[list[TrainingRow]]) -> dict[str, Any]:
    from rlhf.algorithms.sft import SFTLoss
    from rlhf.models.causal_lm import SamplingDistribution, TokenReadout
    from rlhf.runtimes.buckets import unpack
    from rlhf.runtimes.deepspeed_backend import DeepSpeedBackend
    from rlhf.train.batching import RowGroup, deal, packing_of
    from rlhf.train.learner import Learner
    from rlhf.types import Reference, Row

    backend = DeepSpeedBackend(model, config, OptimizerConfig(lr=LR))
    learner = Learner(backend, TokenReadout(SamplingDistribution()), packed=config.packed)
    losses, norms = [], []
    for step, rows in enumerate(steps):
        groups = [
            RowGroup(
                rows=Reference([row]),
                scalars=(
                    Row(group=0, index=0, num_tokens=len(row.token_ids), num_loss_tokens=int(row.loss_mask.sum())),
                ),
            )
            for row in rows
        ]
        packing = packing_of(config, num_ranks=2)
        batch = deal(groups, step=step, num_minibatches=1, num_epochs=1, packing=packing, seed=0)
        stats = learner.update(learner.shard(batch, SFTLoss()), SFTLoss(), LR)
        losses.append(stats.sums["loss"][0])
        norms.append(stats.values()["gradient_norm"])
    weights = {name: p.float().numpy().copy() for bucket in backend.weights(50_000) for name, p in unpack(bucket)}
    return {"losses": losses, "norms": norms, "weights": weights, "packs": len(batch.minibatches[0].packs)}


CASES = [
    *(
        {"zero_stage": stage, "packed": packed, "max_tokens_per_microbatch": tokens}
        for stage, (packed, tokens) in itertools.product((1, 2, 3), ((True, 64), (False, 100)))
    ),
    {"zero_stage": 3, "packed": True, "max_tokens_per_microbatch": 4096},
    {"zero_stage": 3, "packed": False, "max_tokens_per_microbatch": 40, "persistence_threshold": 0},
    {"zero_stage": 3, "packed": True, "max_tokens_per_microbatch": 64, "gradient_checkpointing": True},
    {"zero_stage": 3, "packed": True, "max_tokens_per_microbatch": 64, "offload_optimizer": True},
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: "-".join(f"{v}" for v in case.values()))
def test_two_ranks_equal_one_process(on_ranks: Any, models: dict[str, Path], case: dict[str, Any]) -> None:
    model = str(models["tied"])
    steps = [make_rows(seed, 9) for seed in range(4)]
    losses, norms, weights = adamw.train(
        model, [[(row.token_ids, row.loss_mask) for row in rows] for rows in steps], lr=LR, clipping=1.0
    )
    first, second = on_ranks(train_on_rank, model, BackendConfig(precision=Precision.fp32, **case), steps)
    assert second["weights"] == {}
    together = np.add(first["losses"], second["losses"])
    np.testing.assert_allclose(together, losses, atol=5e-6)
    np.testing.assert_allclose(first["norms"], norms, rtol=1e-5)
    assert first["norms"] == second["norms"]
    assert first["weights"].keys() == weights.keys()
    for name, expected in weights.items():
        np.testing.assert_allclose(first["weights"][name], expected, atol=5e-5, err_msg=name)


def forward_on_rank(model: str, precision: Precision, row: TrainingRow) -> np.ndarray:
    from rlhf.models.causal_lm import SamplingDistribution, TokenReadout
    from rlhf.ops.microbatch import MicroBatch
    from rlhf.runtimes.deepspeed_backend import DeepSpeedBackend

    backend = DeepSpeedBackend(model, BackendConfig(precision=precision), OptimizerConfig(lr=LR))
    micro = MicroBatch.from_rows([row.token_ids], [row.loss_mask], [0.0], {}, packed=True)
    return micro.flatten(backend.forward(micro, TokenReadout(SamplingDistribution()), grad=False).logprobs)


def test_bf16_under_zero3_is_the_model_transformers_loads(on_ranks: Any, models: dict[str, Path]) -> None:
    """DeepSpeed casts the rotary frequencies to bf16; restored, the logprobs are those of the plain model."""
    import torch
    from transformers import AutoModelForCausalLM

    (row,) = make_rows(5, 1)
    plain = AutoModelForCausalLM.from_pretrained(models["tied"], dtype=torch.bfloat16)
    ids = torch.tensor(row.token_ids, dtype=torch.int64).unsqueeze(0)
    with torch.no_grad():
        logprobs = plain(input_ids=ids).logits[0, :-1].float().log_softmax(-1)
    expected = logprobs[torch.arange(len(row.token_ids) - 1), ids[0, 1:]].numpy() * row.loss_mask[1:]
    for found in on_ranks(forward_on_rank, str(models["tied"]), Precision.bf16, row):
        np.testing.assert_allclose(found[1:], expected, atol=1e-6)


def skip_on_rank(model: str, stage: int, rows: list[TrainingRow], poisoned_rank: int) -> dict[str, Any]:
    import os

    import torch

    from rlhf.algorithms.base import Metrics, TokenOutputs
    from rlhf.algorithms.sft import SFTLoss
    from rlhf.models.causal_lm import SamplingDistribution, TokenReadout
    from rlhf.ops.microbatch import MicroBatch
    from rlhf.runtimes.buckets import unpack
    from rlhf.runtimes.deepspeed_backend import DeepSpeedBackend
    from rlhf.train.batching import deal, packing_of
    from rlhf.train.learner import Learner
    from rlhf.train.offline import as_group

    class PoisonedLoss(SFTLoss):
        def __call__(self, outputs: TokenOutputs, batch: MicroBatch) -> tuple[torch.Tensor, Metrics]:
            loss, metrics = super().__call__(outputs, batch)
            return loss * (float("nan") if int(os.environ["RANK"]) == poisoned_rank else 1.0), metrics

    config = BackendConfig(precision=Precision.fp32, zero_stage=stage, packed=True, max_tokens_per_microbatch=64)
    backend = DeepSpeedBackend(model, config, OptimizerConfig(lr=LR))
    learner = Learner(backend, TokenReadout(SamplingDistribution()), packed=True)
    groups = [as_group((row,)) for row in rows]
    batch = deal(groups, step=0, num_minibatches=1, num_epochs=1, packing=packing_of(config, num_ranks=2), seed=0)

    def parameters() -> dict[str, np.ndarray]:
        return {name: p.numpy().copy() for bucket in backend.weights(1 << 20) for name, p in unpack(bucket)}

    before = parameters()
    skipped = learner.update(learner.shard(batch, PoisonedLoss()), PoisonedLoss(), LR).values()["skipped_updates"]
    between = parameters()
    healthy = learner.update(learner.shard(batch, SFTLoss()), SFTLoss(), LR).values()["skipped_updates"]
    after = parameters()
    return {"skipped": skipped, "healthy": healthy, "before": before, "between": between, "after": after}


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_a_gradient_that_is_not_finite_on_one_rank_is_skipped_on_all(
    on_ranks: Any, models: dict[str, Path], stage: int
) -> None:
    from rlhf.types import TrainingRow as Row

    rows = [
        Row(token_ids=row.token_ids, loss_mask=row.loss_mask & (np.arange(len(row.loss_mask)) > 0))
        for row in make_rows(3, 6)
    ]
    first, second = on_ranks(skip_on_rank, str(models["tied"]), stage, rows, 1)
    for rank in (first, second):
        assert (rank["skipped"], rank["healthy"]) == (1.0, 0.0)
    assert all((first["before"][name] == first["between"][name]).all() for name in first["before"])
    moved = [name for name in first["after"] if not (first["after"][name] == first["before"][name]).all()]
    assert moved
    assert all(np.isfinite(first["after"][name]).all() for name in moved)


def continue_on_rank(model: str, lora: LoRAConfig, steps: list[list[TrainingRow]], folder: Path) -> list[Any]:
    """Parameters and norm after a further step: of a bf16 model under ZeRO 1, and of one that continues from it."""
    from rlhf.models.causal_lm import SamplingDistribution, TokenReadout
    from rlhf.ops.microbatch import MicroBatch
    from rlhf.runtimes.deepspeed_backend import DeepSpeedBackend

    config = BackendConfig(precision=Precision.bf16, zero_stage=1)

    def step(backend: DeepSpeedBackend, rows: list[TrainingRow]) -> float:
        mine = rows[backend.rank :: backend.num_ranks]
        for row in mine:
            micro = MicroBatch.from_rows([row.token_ids], [row.loss_mask], [0.0], {}, packed=True)
            outputs = backend.forward(micro, TokenReadout(SamplingDistribution()), grad=True)
            backend.backward(-outputs.logprobs.sum() / 100, last=row is mine[-1])
        return backend.step(LR)[0]

    first = DeepSpeedBackend(model, config, OptimizerConfig(lr=LR), lora=lora)
    for rows in steps[:-1]:
        step(first, rows)
    first.save(folder)
    first.gather(None)
    resumed = DeepSpeedBackend(model, config, OptimizerConfig(lr=LR), lora=lora)
    resumed.load(folder)
    found = []
    for backend in (first, resumed):
        norm = step(backend, steps[-1])
        trained = {name: p.detach().float().numpy() for name, p in backend.model.named_parameters() if p.requires_grad}
        found.append((norm, trained))
    return found


@pytest.mark.parametrize("rank", [None, 4])
def test_bf16_under_zero1_continues_to_the_same_parameters(
    on_ranks: Any, models: dict[str, Path], tmp_path: Path, rank: int | None
) -> None:
    steps = [make_rows(seed, 6) for seed in range(3)]
    ranks = on_ranks(continue_on_rank, str(models["tied"]), LoRAConfig(rank=rank), steps, tmp_path)
    ((norm, expected), *_), *_ = ranks
    for found, parameters in itertools.chain(*ranks):
        assert found == norm
        assert all((parameters[name] == expected[name]).all() for name in expected)

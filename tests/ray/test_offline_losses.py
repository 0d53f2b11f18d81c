"""Sharding, packing and the size of micro-batches change no offline loss: all equal one process, one row at a time."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rlhf.algorithms.dpo import DPOConfig
from rlhf.algorithms.ipo import IPOConfig
from rlhf.algorithms.kto import KTOConfig
from rlhf.algorithms.orpo import ORPOConfig
from rlhf.algorithms.process_reward import ProcessRewardConfig
from rlhf.algorithms.reward_model import RewardModelConfig
from rlhf.algorithms.sft import SFTConfig
from rlhf.algorithms.simpo import SimPOConfig
from rlhf.models.heads import Head
from rlhf.runtimes.configs import BackendConfig, OptimizerConfig, Precision
from rlhf.train.offline import Corpus, OfflineTrainConfig, rows_of_step
from rlhf.types import TrainingRow, Unit
from tests.oracles import offline as oracle

LR, NUM_STEPS, ROWS_PER_STEP, SEED = 1e-3, 3, 6, 3
# Of a gradient near 0 rounding decides the sign, which AdamW with a smaller one would turn into a whole step.
EPS = 1e-6
GENERATOR = np.random.default_rng(0)


def row(score: float = 0.0, *, where: str = "answer") -> TrainingRow:
    """Random tokens; learnt are those of the answer, the last alone, or the ends of steps."""
    length = int(GENERATOR.integers(6, 30))
    start = int(GENERATOR.integers(1, length - 1))
    places = np.arange(length)
    mask = {"answer": places >= start, "last": places == length - 1, "steps": (places % 4 == 3)}[where]
    columns = {}
    if where == "answer":
        columns = {"ref_logprobs": (GENERATOR.normal(-4, 0.3, length) * mask).astype(np.float32)}
    if where == "steps":
        columns = {"targets": (GENERATOR.integers(0, 2, length) * mask).astype(np.float32)}
    return TrainingRow(
        token_ids=GENERATOR.integers(3, 60, length).astype(np.int32), loss_mask=mask, score=score, columns=columns
    )


def pairs(where: str) -> list[Unit]:
    return [(row(where=where), row(where=where)) for _ in range(12)]


SINGLES: list[Unit] = [(row(),) for _ in range(12)]
ANSWERS, LAST, STEPS = pairs("answer"), pairs("last"), [(row(where="steps"),) for _ in range(12)]
LABELLED: list[Unit] = [(row(score=float(i % 3 > 0)),) for i in range(12)]
MISMATCHED = [row() for _ in LABELLED]


def likelihood(says: oracle.Says, units: list[Unit]) -> Any:
    return -sum(says(row).sum() for (row,) in units) / sum(row.num_loss_tokens for (row,) in units)


METHODS: dict[str, tuple[Any, Head, Corpus, Any]] = {
    "sft": (SFTConfig(), Head.causal_lm, Corpus(units=SINGLES), likelihood),
    "dpo": (DPOConfig(label_smoothing=0.1), Head.causal_lm, Corpus(units=ANSWERS), oracle.sigmoid_loss(0.1, 0.1)),
    "ipo": (IPOConfig(), Head.causal_lm, Corpus(units=ANSWERS), oracle.ipo(0.1)),
    "orpo": (ORPOConfig(), Head.causal_lm, Corpus(units=ANSWERS), oracle.orpo(0.1)),
    "simpo": (SimPOConfig(beta=2.0, gamma=0.5), Head.causal_lm, Corpus(units=ANSWERS), oracle.simpo(2.0, 0.5)),
    "kto": (KTOConfig(), Head.causal_lm, Corpus(units=LABELLED, mismatched_rows=MISMATCHED), oracle.kto(0.1)),
    "reward_model": (
        RewardModelConfig(centring_coef=0.01), Head.score, Corpus(units=LAST), oracle.bradley_terry(0.01)
    ),
    "process_reward": (ProcessRewardConfig(), Head.score, Corpus(units=STEPS), oracle.process_reward),
}  # fmt: skip
LAYOUTS = [(3, True, 64), (3, False, 4096), (2, True, 4096), (1, False, 120)]


def train_on_rank(model: str, head: Head, config: BackendConfig, algorithm: Any, corpus: Corpus) -> dict[str, Any]:
    from rlhf.models.causal_lm import SamplingDistribution, TokenReadout
    from rlhf.models.score_model import ScoreReadout
    from rlhf.runtimes.buckets import unpack
    from rlhf.runtimes.deepspeed_backend import DeepSpeedBackend
    from rlhf.train.batching import packing_of
    from rlhf.train.learner import Learner
    from rlhf.train.offline import OfflineTrainer
    from rlhf.train.reference import KLBaseline

    optimizer = OptimizerConfig(lr=LR, eps=EPS)
    backend = DeepSpeedBackend(model, config, optimizer, head)
    readout = ScoreReadout() if head is Head.score else TokenReadout(SamplingDistribution())
    learner = Learner(backend, readout, packed=config.packed)
    packing = packing_of(config, backend.num_ranks)
    trainer = OfflineTrainer(
        learner=learner,
        loss=algorithm.build(),
        optimizer=optimizer,
        config=OfflineTrainConfig(num_steps=NUM_STEPS, rows_per_step=ROWS_PER_STEP),
        packing=packing,
        seed=SEED,
        column_functions=[KLBaseline(learner, packing, None)] if corpus.mismatched_rows else [],
    )
    figures = list(trainer.fit(corpus))
    weights = {name: p.float().numpy().copy() for bucket in backend.weights(50_000) for name, p in unpack(bucket)}
    return {"figures": figures, "weights": weights}


@pytest.fixture(scope="module")
def expected(models: dict[str, Path]) -> dict[str, Any]:
    """What the oracle makes of each method."""
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

    found = {}
    steps = [rows_of_step(12, ROWS_PER_STEP, step, SEED) for step in range(NUM_STEPS)]
    for name, (_, head, corpus, loss) in METHODS.items():
        if head is Head.score:
            model = AutoModelForSequenceClassification.from_pretrained(models["judge"])
            says = oracle.scores_of(model)
        else:
            model = AutoModelForCausalLM.from_pretrained(models["tied"])
            says = oracle.logprobs_of(model)
        units = [
            [
                (*corpus.units[i], corpus.mismatched_rows[i]) if corpus.mismatched_rows else corpus.units[i]
                for i in chosen
            ]
            for chosen in steps
        ]
        found[name] = oracle.train(model, says, units, loss, lr=LR, eps=EPS)
    return found


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: "-".join(map(str, layout)))
@pytest.mark.parametrize("method", METHODS)
def test_an_offline_method_equals_one_process(
    on_ranks: Any, models: dict[str, Path], expected: dict[str, Any], method: str, layout: tuple[int, bool, int]
) -> None:
    algorithm, head, corpus, _ = METHODS[method]
    stage, packed, tokens = layout
    config = BackendConfig(precision=Precision.fp32, zero_stage=stage, packed=packed, max_tokens_per_microbatch=tokens)
    model = str(models["judge" if head is Head.score else "tied"])
    losses, norms, weights = expected[method]
    first, second = on_ranks(train_on_rank, model, head, config, algorithm, corpus)
    np.testing.assert_allclose([row["train/loss"] for row in first["figures"]], losses, atol=1e-5, rtol=1e-5)
    np.testing.assert_allclose([row["train/gradient_norm"] for row in first["figures"]], norms, rtol=2e-5)
    assert first["figures"][0]["train/loss"] == second["figures"][0]["train/loss"]
    assert first["weights"].keys() == weights.keys()
    for name, values in weights.items():
        np.testing.assert_allclose(first["weights"][name], values, atol=5e-5, err_msg=name)

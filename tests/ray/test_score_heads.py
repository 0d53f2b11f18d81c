"""Reward models in training say what transformers' own forward pass says of a row, packed or padded, sharded or not."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rlhf.models.heads import Head
from rlhf.models.lora import LoRAConfig
from rlhf.runtimes.configs import BackendConfig, OptimizerConfig, Precision
from rlhf.types import TrainingRow
from tests.ray.test_sharding import make_rows


def last_tokens(rows: list[TrainingRow]) -> list[TrainingRow]:
    """The score is read at the last token."""
    return [
        TrainingRow(token_ids=row.token_ids, loss_mask=np.arange(row.num_tokens) == row.num_tokens - 1) for row in rows
    ]


def scores_on_rank(
    model: str, config: BackendConfig, lora: LoRAConfig | None, rows: list[TrainingRow]
) -> list[np.ndarray]:
    from rlhf.models.score_model import ScoreReadout
    from rlhf.runtimes.deepspeed_backend import DeepSpeedBackend
    from rlhf.train.batching import packing_of
    from rlhf.train.learner import Learner
    from rlhf.train.offline import columns_of_rows

    backend = DeepSpeedBackend(model, config, OptimizerConfig(), Head.score, lora)
    learner = Learner(backend, ScoreReadout(), packed=config.packed)
    return columns_of_rows(learner, rows, packing_of(config, backend.num_ranks), rows_per_batch=5)


def expected_scores(model: Path, rows: list[TrainingRow]) -> list[float]:
    import torch
    from transformers import AutoModelForSequenceClassification

    plain = AutoModelForSequenceClassification.from_pretrained(model).eval()
    with torch.no_grad():
        return [plain(input_ids=torch.tensor(row.token_ids, dtype=torch.int64)[None]).logits.item() for row in rows]


@pytest.mark.parametrize(
    ("stage", "packed", "lora"), [(3, True, None), (3, False, None), (2, True, None), (3, True, LoRAConfig(rank=4))]
)
def test_a_decoder_s_score_is_transformers_own(
    on_ranks: Any, models: dict[str, Path], stage: int, packed: bool, lora: LoRAConfig | None
) -> None:
    rows = last_tokens(make_rows(7, 12))
    config = BackendConfig(precision=Precision.fp32, zero_stage=stage, packed=packed, max_tokens_per_microbatch=100)
    expected = expected_scores(models["judge"], rows)
    assert len({round(score, 4) for score in expected}) > 6
    for found in on_ranks(scores_on_rank, str(models["judge"]), config, lora, rows):
        for row, scores, score in zip(rows, found, expected, strict=True):
            assert scores[-1] == pytest.approx(score, abs=1e-5)
            assert not scores[:-1].any()
            assert len(scores) == row.num_tokens


@pytest.mark.parametrize("stage", [2, 3])
def test_an_encoder_s_score_is_transformers_own(on_ranks: Any, encoder: Path, stage: int) -> None:
    rows = last_tokens(make_rows(8, 9))
    config = BackendConfig(precision=Precision.fp32, zero_stage=stage, packed=False, max_tokens_per_microbatch=160)
    expected = expected_scores(encoder, rows)
    for found in on_ranks(scores_on_rank, str(encoder), config, None, rows):
        assert [scores[-1] for scores in found] == pytest.approx(expected, abs=1e-5)

"""Noise on embeddings: its scale, where it is and is not, and that dealing rows differently changes none of it."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from rlhf.models.causal_lm import SamplingDistribution, TokenReadout
from rlhf.models.neftune import NEFTune
from rlhf.ops.microbatch import MicroBatch

LENGTHS = (5, 40, 12)
WIDTH = 64
ALPHA = 5.0


@pytest.fixture(scope="module")
def model(models: dict[str, Path]) -> Any:
    return AutoModelForCausalLM.from_pretrained(models["tied"])


def make_batch(rows: list[int], *, packed: bool) -> MicroBatch:
    ids = [np.random.default_rng(row).integers(3, 60, LENGTHS[row]).astype(np.int32) for row in rows]
    return MicroBatch.from_rows(ids, [np.arange(len(each)) > 0 for each in ids], [0.0] * len(ids), {}, packed=packed)


def embedded_by(readout: Any, model: Any, batch: MicroBatch) -> torch.Tensor:
    """What the model's layers are given, [B, T, D]."""
    seen = []
    hook = model.model.layers[0].register_forward_pre_hook(lambda layer, inputs: seen.append(inputs[0].detach()))
    readout(model, batch)
    hook.remove()
    return seen[0]


def noise_of(model: Any, batch: MicroBatch, *, alpha: float | None = ALPHA, seed: int = 0, step: int = 0) -> Any:
    readout = NEFTune(TokenReadout(SamplingDistribution()), alpha, seed)
    readout.step = step
    return embedded_by(readout, model, batch) - model.get_input_embeddings()(batch.token_ids).detach()


@pytest.mark.parametrize("packed", [True, False])
def test_scale_follows_each_sequences_own_length(model: Any, packed: bool) -> None:
    batch = make_batch([0, 1, 2], packed=packed)
    noise = noise_of(model, batch)
    for row, length in enumerate(LENGTHS):
        scaled = noise[batch.row_ids == row] / (ALPHA / (length * WIDTH) ** 0.5)
        assert scaled.abs().max() <= 1 + 1e-5
        # Of the uniform distribution on (-1, 1).
        assert scaled.mean().abs() < 4 * (1 / 3 / scaled.numel()) ** 0.5
        assert abs(scaled.square().mean().item() - 1 / 3) < 5 * (4 / 45 / scaled.numel()) ** 0.5
    assert (noise[batch.row_ids == batch.num_rows] == 0).all()


def test_noise_does_not_depend_on_how_rows_are_laid_out(model: Any) -> None:
    packed, padded, alone = (
        make_batch([0, 1, 2], packed=True),
        make_batch([2, 0], packed=False),
        make_batch([2], packed=True),
    )
    expected = noise_of(model, alone)[0]
    torch.testing.assert_close(noise_of(model, packed)[packed.row_ids == 2], expected, atol=1e-6, rtol=0)
    torch.testing.assert_close(noise_of(model, padded)[padded.row_ids == 0], expected, atol=1e-6, rtol=0)


def test_every_step_and_seed_has_its_own_noise(model: Any) -> None:
    batch = make_batch([0], packed=True)
    assert torch.equal(noise_of(model, batch), noise_of(model, batch))
    assert not torch.equal(noise_of(model, batch), noise_of(model, batch, step=1))
    assert not torch.equal(noise_of(model, batch), noise_of(model, batch, seed=1))


def test_there_is_none_without_gradients_without_alpha_or_afterwards(model: Any) -> None:
    batch = make_batch([0, 1], packed=True)
    plain = TokenReadout(SamplingDistribution())
    expected = plain(model, batch).logprobs
    noisy = NEFTune(plain, ALPHA, 0)
    assert not torch.equal(noisy(model, batch).logprobs, expected)
    with torch.no_grad():
        assert torch.equal(noisy(model, batch).logprobs, expected)
    assert torch.equal(NEFTune(plain, None, 0)(model, batch).logprobs, expected)
    assert torch.equal(plain(model, batch).logprobs, expected)


def test_an_empty_batch_goes_through(model: Any) -> None:
    outputs = NEFTune(TokenReadout(SamplingDistribution()), ALPHA, 0)(model, MicroBatch.empty())
    outputs.logprobs.sum().backward()
    assert outputs.logprobs.isfinite().all()
    model.zero_grad()

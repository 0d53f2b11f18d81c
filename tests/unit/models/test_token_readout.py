"""A real tiny Qwen3 gives a token the same logprob whatever shares its micro-batch."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM

from rlhf.models.causal_lm import SamplingDistribution, TokenReadout
from rlhf.ops.microbatch import MicroBatch

PLAIN = SamplingDistribution()
SHAPED = SamplingDistribution(temperature=0.7, banned_token_ids=(0, 2, 63))


@pytest.fixture(scope="module", params=["tied", "untied"])
def model(request: pytest.FixtureRequest, models: dict[str, Path]) -> nn.Module:
    model = AutoModelForCausalLM.from_pretrained(models[request.param], dtype=torch.float32)
    with torch.no_grad():  # an untrained model is nearly uniform: sharpen it, so that a mistake shows
        for parameter in model.parameters():
            parameter.mul_(3.0)
    return model.eval()


def make_rows(seed: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Rows of 1 to 12 tokens whose second half is learnt; banned ids occur in the first half."""
    generator = np.random.default_rng(seed)
    ids, masks = [], []
    for length in (7, 12, 2, 1, 9):
        row = generator.integers(3, 60, length).astype(np.int32)
        mask = np.arange(length) >= max(length // 2, 1)
        if length > 5:
            row[1:3] = (0, 2)
        ids.append(row)
        masks.append(mask)
    return ids, masks


def read_outputs(
    model: nn.Module, distribution: SamplingDistribution, rows: list[int], packed: bool
) -> tuple[np.ndarray, ...]:
    """Flat logprobs and entropies, and the gradient of the logprobs' sum."""
    ids, masks = make_rows(0)
    batch = MicroBatch.from_rows([ids[i] for i in rows], [masks[i] for i in rows], [0.0] * len(rows), {}, packed=packed)
    model.zero_grad()
    outputs = TokenReadout(distribution)(model, batch)
    outputs.logprobs.sum().backward()
    gradient = torch.cat([parameter.grad.flatten() for parameter in model.parameters()]).numpy()
    entropy = batch.flatten(outputs.entropy.masked_fill(~batch.loss_mask, 0.0))
    return batch.flatten(outputs.logprobs.detach()), entropy, gradient


@pytest.mark.parametrize("distribution", [PLAIN, SHAPED], ids=["plain", "shaped"])
def test_packed_padded_and_alone_agree(model, distribution):
    packed = read_outputs(model, distribution, [0, 1, 2, 3, 4], packed=True)
    padded = read_outputs(model, distribution, [0, 1, 2, 3, 4], packed=False)
    alone = [read_outputs(model, distribution, [i], packed=True) for i in range(5)]
    by_row = (*(np.concatenate([row[i] for row in alone]) for i in range(2)), sum(row[2] for row in alone))
    assert np.abs(packed[0]).max() > 1
    for one, other, third in zip(packed, padded, by_row, strict=True):
        assert np.isfinite(one).all()
        scale = max(1.0, float(np.abs(third).max()))
        np.testing.assert_allclose(one, third, atol=1e-5 * scale)
        np.testing.assert_allclose(other, third, atol=1e-5 * scale)


@pytest.mark.parametrize("distribution", [PLAIN, SHAPED], ids=["plain", "shaped"])
def test_logprobs_equal_a_softmax_over_the_model_s_logits(model, distribution):
    ids, masks = make_rows(0)
    for i in range(5):
        (logprobs, _, _) = read_outputs(model, distribution, [i], packed=True)
        logits = model(input_ids=torch.from_numpy(ids[i].astype(np.int64))[None], use_cache=False).logits[0].detach()
        allowed = [v for v in range(logits.shape[-1]) if v not in distribution.banned_token_ids]
        for t in range(len(ids[i])):
            if not masks[i][t]:
                assert logprobs[t] == 0.0
                continue
            scaled = logits[t - 1].double() / distribution.temperature
            expected = scaled[ids[i][t]] - torch.logsumexp(scaled[allowed], 0)
            assert logprobs[t] == pytest.approx(expected.item(), abs=1e-5)


def test_the_empty_batch_goes_through_with_zero_gradient(model):
    model.zero_grad()
    outputs = TokenReadout(SHAPED)(model, MicroBatch.empty())
    outputs.logprobs.sum().backward()
    assert all((parameter.grad == 0).all() for parameter in model.parameters())
    assert torch.isfinite(outputs.entropy).all()

"""Logprobs and entropy against loops over single logits."""

import math

import pytest
import torch

from rlhf.ops.logprobs import next_token_entropy, next_token_logprobs, sampling_logits

B, T, V = 2, 5, 7


def softmax(logits: list[float], temperature: float, banned: set[int]) -> list[float]:
    weights = [0.0 if i in banned else math.exp(logit / temperature) for i, logit in enumerate(logits)]
    return [weight / sum(weights) for weight in weights]


@pytest.fixture
def logits() -> torch.Tensor:
    return 3 * torch.randn(B, T, V, generator=torch.Generator().manual_seed(0), dtype=torch.float32)


@pytest.mark.parametrize("temperature", [1.0, 0.7, 2.0])
@pytest.mark.parametrize("banned", [None, [0], [2, 6]])
def test_logprobs_and_entropy_equal_loops(logits, temperature, banned):
    token_ids = torch.tensor([[3, 1, 5, 4, 1], [0, 3, 3, 5, 4]])  # no target is banned
    sampled = sampling_logits(
        logits, temperature=temperature, banned_token_ids=None if banned is None else torch.tensor(banned)
    )
    logprobs, entropy = next_token_logprobs(sampled, token_ids), next_token_entropy(sampled)
    for b in range(B):
        assert logprobs[b, 0] == 0.0
        assert entropy[b, 0] == 0.0
        for t in range(1, T):
            p = softmax(logits[b, t - 1].tolist(), temperature, set(banned or ()))
            assert logprobs[b, t].item() == pytest.approx(math.log(p[token_ids[b, t]]), abs=2e-6)
            assert entropy[b, t].item() == pytest.approx(-sum(q * math.log(q) for q in p if q > 0), abs=2e-6)


def test_a_banned_token_has_probability_zero_and_no_gradient(logits):
    logits.requires_grad_()
    sampled = sampling_logits(logits, temperature=0.7, banned_token_ids=torch.tensor([2, 6]))
    token_ids = torch.tensor([[2, 6, 1, 4, 1], [0, 3, 2, 5, 4]])
    logprobs = next_token_logprobs(sampled, token_ids)
    assert logprobs[0, 1].item() == logprobs[1, 2].item() == -math.inf
    allowed = ((token_ids != 2) & (token_ids != 6)).long()
    logprobs.masked_fill(allowed == 0, 0.0).sum().backward()
    assert torch.isfinite(logits.grad).all()
    assert (logits.grad[..., [2, 6]] == 0).all()


def test_gradient_of_logprobs_is_one_hot_minus_softmax(logits):
    logits.requires_grad_()
    token_ids = torch.tensor([[3, 1, 5, 4, 1], [0, 3, 3, 5, 4]])
    next_token_logprobs(sampling_logits(logits, temperature=0.5, banned_token_ids=None), token_ids).sum().backward()
    for b in range(B):
        for t in range(T - 1):
            p = softmax(logits[b, t].tolist(), 0.5, set())
            expected = [(float(i == token_ids[b, t + 1]) - p[i]) / 0.5 for i in range(V)]
            torch.testing.assert_close(logits.grad[b, t], torch.tensor(expected), atol=1e-5, rtol=0)
        assert (logits.grad[b, T - 1] == 0).all()


def test_bf16_logits_are_scored_in_fp32(logits):
    sampled = sampling_logits(logits.bfloat16(), temperature=1.0, banned_token_ids=None)
    assert sampled.dtype == torch.float32
    torch.testing.assert_close(sampled, logits.bfloat16().float())


def test_entropy_where_one_token_is_left():
    """-inf * 0 counts as 0: a distribution on one token has no entropy."""
    sampled = sampling_logits(torch.randn(1, 2, 3), temperature=1.0, banned_token_ids=torch.tensor([0, 2]))
    assert next_token_entropy(sampled).tolist() == [[0.0, 0.0]]

"""The clipped surrogate against loops, and where its gradient vanishes."""

import math
import random

import pytest
import torch

from rlhf.ops.log_ratio import bounded_log_ratio
from rlhf.ops.policy_loss import cispo_surrogate
from rlhf.ops.policy_loss import clipped_surrogate as surrogate_of_ratio
from rlhf.ops.policy_loss import clipped_tokens as tokens_of_ratio

CLIPS = [
    {"clip_low": 0.2, "clip_high": 0.2},
    {"clip_low": 0.2, "clip_high": 0.28},
    {"clip_low": 0.5, "clip_high": 3.0},
    {"clip_low": 0.2, "clip_high": 0.2, "dual_clip": 2.0},
]


def clipped_surrogate(logprobs, old_logprobs, advantages, **clip):
    return surrogate_of_ratio(bounded_log_ratio(logprobs, old_logprobs).exp(), advantages, **clip)


def clipped_tokens(logprobs, old_logprobs, advantages, **clip):
    return tokens_of_ratio(bounded_log_ratio(logprobs, old_logprobs).exp(), advantages, **clip)


def random_tokens(seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Ratios from far below to far above the trust region, advantages of both signs and zero."""
    generator = random.Random(seed)
    old = [[generator.uniform(-5, 0) for _ in range(20)] for _ in range(3)]
    new = [[value + generator.uniform(-1.5, 1.5) for value in row] for row in old]
    advantages = [[generator.choice([-2.0, -0.3, 0.0, 0.7, 5.0]) for _ in range(20)] for _ in range(3)]
    return torch.tensor(new), torch.tensor(old), torch.tensor(advantages)


@pytest.mark.parametrize("clip", CLIPS)
def test_surrogate_and_gradient_equal_a_loop(clip):
    logprobs, old_logprobs, advantages = random_tokens(0)
    logprobs.requires_grad_()
    per_token = clipped_surrogate(logprobs, old_logprobs, advantages, **clip)
    per_token.sum().backward()
    low, high = 1 - clip["clip_low"], 1 + clip["clip_high"]
    for b in range(3):
        for t in range(20):
            advantage = advantages[b, t].item()
            ratio = math.exp(logprobs[b, t].item() - old_logprobs[b, t].item())
            value = min(ratio * advantage, min(max(ratio, low), high) * advantage)
            slope = 0.0 if (ratio > high and advantage > 0) or (ratio < low and advantage < 0) else ratio * advantage
            dual = clip.get("dual_clip")
            if dual is not None and advantage < 0 and ratio > dual:
                value, slope = dual * advantage, 0.0
            assert per_token[b, t].item() == pytest.approx(-value, rel=1e-5, abs=1e-7)
            assert logprobs.grad[b, t].item() == pytest.approx(-slope, rel=1e-5, abs=1e-7)


@pytest.mark.parametrize("clip", CLIPS)
def test_clipped_tokens_are_those_without_a_gradient(clip):
    logprobs, old_logprobs, advantages = random_tokens(1)
    logprobs.requires_grad_()
    clipped_surrogate(logprobs, old_logprobs, advantages, **clip).sum().backward()
    without = (logprobs.grad == 0) & (advantages != 0)
    assert without.any()
    assert not without.all()
    assert torch.equal(clipped_tokens(logprobs, old_logprobs, advantages, **clip), without)


def test_on_policy_the_gradient_is_the_policy_gradient():
    """At ratio 1 nothing is clipped: the loss is -A and its gradient too (REINFORCE with a baseline)."""
    _, old_logprobs, advantages = random_tokens(2)
    logprobs = old_logprobs.clone().requires_grad_()
    per_token = clipped_surrogate(logprobs, old_logprobs, advantages, clip_low=0.2, clip_high=0.2)
    per_token.sum().backward()
    torch.testing.assert_close(per_token.detach(), -advantages)
    torch.testing.assert_close(logprobs.grad, -advantages)
    assert not clipped_tokens(logprobs, old_logprobs, advantages, clip_low=0.2, clip_high=0.2).any()


@pytest.mark.parametrize("distance", [99.9, 500.0])
@pytest.mark.parametrize("advantage", [-1.5, 0.0, 1.5])
def test_a_token_far_off_the_old_policy_has_a_finite_loss(advantage, distance):
    """Up to 20 nats nothing changes; beyond, the ratio counts as e^20 and has no gradient."""
    logprobs = torch.tensor([[0.0, -distance]], requires_grad=True)
    old_logprobs = torch.tensor([[-distance, 0.0]])
    advantages = torch.full((1, 2), advantage)
    per_token = clipped_surrogate(logprobs, old_logprobs, advantages, clip_low=0.2, clip_high=0.28)
    per_token.sum().backward()
    above = -1.28 * advantage if advantage > 0 else -math.exp(20) * advantage
    below = -0.8 * advantage if advantage < 0 else 0.0
    assert per_token[0].tolist() == pytest.approx([above, below], rel=1e-5)
    assert logprobs.grad[0].tolist() == pytest.approx([0.0, 0.0], abs=1e-30)
    clipped = clipped_tokens(logprobs, old_logprobs, advantages, clip_low=0.2, clip_high=0.28)
    assert clipped.tolist() == [[advantage > 0, advantage < 0]]


def test_a_log_ratio_of_19_nats_is_exact():
    logprobs = torch.tensor([[0.0]], requires_grad=True)
    per_token = clipped_surrogate(
        logprobs, torch.tensor([[-19.0]]), torch.tensor([[-1.0]]), clip_low=0.2, clip_high=0.2
    )
    per_token.sum().backward()
    assert per_token.item() == pytest.approx(math.exp(19), rel=1e-6)
    assert logprobs.grad.item() == pytest.approx(math.exp(19), rel=1e-6)


@pytest.mark.parametrize("clip", [{"clip_low": 0.2, "clip_high": 0.28}, {"clip_low": 1.0, "clip_high": 4.0}])
def test_cispo_learns_from_clipped_tokens(clip):
    """The gradient of a token is its clipped ratio times its advantage, never 0 for a ratio out of bounds."""
    logprobs, old_logprobs, advantages = random_tokens(3)
    ratio = (logprobs - old_logprobs).exp()
    leaf = logprobs.clone().requires_grad_()
    cispo_surrogate(leaf, (leaf - old_logprobs).exp(), advantages, **clip).sum().backward()
    bounded = ratio.clamp(1 - clip["clip_low"], 1 + clip["clip_high"])
    torch.testing.assert_close(leaf.grad, -bounded * advantages)
    assert (ratio > 1 + clip["clip_high"]).any() or clip["clip_high"] > 3

"""GAE against the definition, and its limits."""

import random

import pytest
import torch

from rlhf.ops.advantages import generalized_advantages


def naive(rewards: list[float], values: list[float], gamma: float, gae_lambda: float) -> list[float]:
    """Equation 16 as a double sum, over one row."""
    deltas = [
        reward + gamma * (values[t + 1] if t + 1 < len(values) else 0.0) - values[t] for t, reward in enumerate(rewards)
    ]
    return [
        sum((gamma * gae_lambda) ** step * delta for step, delta in enumerate(deltas[t:])) for t in range(len(rewards))
    ]


def padded(rows: list[list[float]]) -> torch.Tensor:
    longest = max(map(len, rows))
    return torch.tensor([[*row, *[0.0] * (longest - len(row))] for row in rows], dtype=torch.float64)


@pytest.mark.parametrize(("gamma", "gae_lambda"), [(1.0, 0.95), (0.9, 0.8), (1.0, 1.0), (0.97, 0.0), (0.0, 1.0)])
def test_equals_the_double_sum_for_rows_of_any_length(gamma, gae_lambda):
    generator = random.Random(3)
    lengths = [1, 7, 3, 12, 2]
    rewards, values = ([[generator.uniform(-2, 2) for _ in range(n)] for n in lengths] for _ in "rv")
    found = generalized_advantages(padded(rewards), padded(values), gamma=gamma, gae_lambda=gae_lambda)
    expected = [naive(r, v, gamma, gae_lambda) for r, v in zip(rewards, values, strict=True)]
    torch.testing.assert_close(found, padded(expected), atol=1e-12, rtol=0)


def test_with_lambda_1_the_return_is_the_discounted_sum_of_rewards_whatever_the_critic_says():
    rewards = torch.tensor([[1.0, -2.0, 4.0]])
    for values in (torch.zeros(1, 3), torch.tensor([[5.0, -1.0, 2.0]])):
        returns = generalized_advantages(rewards, values, gamma=0.5, gae_lambda=1.0) + values
        torch.testing.assert_close(returns, torch.tensor([[1.0 - 1.0 + 1.0, -2.0 + 2.0, 4.0]]))


def test_a_critic_that_is_right_leaves_no_advantage():
    values = torch.tensor([[3.0, 2.0, 2.0]])
    rewards = torch.tensor([[1.0, 0.0, 2.0]])
    advantages = generalized_advantages(rewards, values, gamma=1.0, gae_lambda=0.7)
    assert advantages.abs().max() == 0


def test_no_row_is_no_advantage():
    assert generalized_advantages(torch.zeros(0, 1), torch.zeros(0, 1), gamma=1.0, gae_lambda=1.0).shape == (0, 1)

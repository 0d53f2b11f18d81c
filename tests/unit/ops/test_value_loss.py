"""The critic's error: PPO's clip by cases."""

import pytest
import torch

from rlhf.ops.value_loss import clipped_value_error, clipped_values

CASES = [
    # value, old, return, clip -> error, whether the clip removes the gradient
    (0.5, 0.4, 1.0, 0.2, 0.125, False),  # inside: the plain error
    (0.9, 0.4, 1.0, 0.2, 0.08, True),  # ran ahead towards the return: held at 0.6, no gradient
    (-0.5, 0.4, 1.0, 0.2, 1.125, False),  # ran away from the return: the plain error is larger
    (0.9, 0.4, 0.0, 0.2, 0.405, False),
    (-0.5, 0.4, 0.0, 0.2, 0.125, False),  # past the return on the other side
    (0.1, 0.4, 0.0, 0.2, 0.02, True),
]


@pytest.mark.parametrize(("value", "old", "target", "clip", "error", "held"), CASES)
def test_clip_by_cases(value, old, target, clip, error, held):
    values = torch.tensor([[value]], requires_grad=True)
    old_values, returns = torch.tensor([[old]]), torch.tensor([[target]])
    found = clipped_value_error(values, old_values, returns, clip=clip)
    assert found.item() == pytest.approx(error, abs=1e-7)
    found.sum().backward()
    assert (values.grad.item() == 0) is held
    assert clipped_values(values.detach(), old_values, returns, clip=clip).item() is held


def test_without_a_clip_it_is_half_the_square():
    values, returns = torch.tensor([[3.0, -1.0]]), torch.tensor([[1.0, 1.0]])
    assert clipped_value_error(values, values + 9, returns, clip=None).tolist() == [[2.0, 2.0]]

"""Masked reductions: what lies outside the mask does not exist, in the value or in the gradient."""

import math

import pytest
import torch

from rlhf.ops.masking import masked_max, masked_sum

MASK = torch.tensor([[True, False, True], [False, True, False]])


def test_masked_sum_and_its_gradient_ignore_what_is_outside():
    values = torch.tensor([[1.0, math.nan, 2.5], [math.inf, -4.0, -math.inf]], requires_grad=True)
    total = masked_sum(values, MASK)
    assert total.item() == 1.0 + 2.5 - 4.0
    total.backward()
    assert values.grad.tolist() == [[1.0, 0.0, 1.0], [0.0, 1.0, 0.0]]


def test_masked_sum_of_nothing_is_zero_and_differentiable():
    values = torch.full((2, 3), math.nan, requires_grad=True)
    total = masked_sum(values, torch.zeros_like(MASK))
    total.backward()
    assert total.item() == 0.0
    assert values.grad.tolist() == [[0.0] * 3] * 2


@pytest.mark.parametrize(("mask", "expected"), [(MASK, 2.5), (~MASK, 9.0), (torch.zeros_like(MASK), -math.inf)])
def test_masked_max(mask, expected):
    values = torch.tensor([[1.0, 8.0, 2.5], [-3.0, -4.0, 9.0]])
    assert masked_max(values, mask).item() == expected

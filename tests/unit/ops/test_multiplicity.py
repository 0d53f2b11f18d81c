"""Holm's adjustment and detectable effects: worked examples, statsmodels."""

import math

import numpy as np
import pytest
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import TTestPower

from rlhf.ops.multiplicity import holm, minimum_detectable_effect


def test_holm_by_hand() -> None:
    # Steps 4 x .005, 3 x .01, 2 x .03, and .04, which may not be below the step before.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])


@pytest.mark.parametrize("num", [1, 2, 9, 40])
def test_holm_agrees_with_statsmodels(num: int) -> None:
    values = np.round(np.random.default_rng(num).random(num) ** 3, 2)
    assert holm(values) == pytest.approx(multipletests(values, method="holm")[1])
    assert len(holm([])) == 0


@pytest.mark.parametrize("num", [5, 30, 400])
@pytest.mark.parametrize("power", [0.8, 0.95])
def test_effects_are_those_that_a_t_test_detects(num: int, power: float) -> None:
    expected = TTestPower().solve_power(nobs=num, alpha=0.05, power=power) * math.sqrt(0.3)
    assert minimum_detectable_effect(num, variance=0.3, power=power) == pytest.approx(expected, rel=0.02)


def test_samples_help_unless_they_are_alike() -> None:
    one = minimum_detectable_effect(100, variance=0.25)
    assert minimum_detectable_effect(100, variance=0.25, samples=4) == pytest.approx(one / 2)
    assert minimum_detectable_effect(100, variance=0.25, samples=4, correlation=1.0) == pytest.approx(one)
    # (1 + 3 x .3) / 4 = .475
    some = minimum_detectable_effect(100, variance=0.25, samples=4, correlation=0.3)
    assert some == pytest.approx(one * math.sqrt(0.475))
    assert minimum_detectable_effect(1, variance=0.25) == math.inf

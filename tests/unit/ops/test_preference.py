"""Preference objectives: against the formulas as papers print them, at points where they are known, and far out."""

import math

import pytest
import torch

from rlhf.ops.preference import (
    bradley_terry_loss,
    dpo_loss,
    ipo_loss,
    kto_loss,
    log_odds,
    odds_ratio_loss,
    simpo_loss,
)


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def odds(logprob: float) -> float:
    return math.exp(logprob) / (1 - math.exp(logprob))


def conservative(chosen: float, rejected: float) -> float:
    probability = sigmoid(0.3 * (chosen - rejected))
    return -0.8 * math.log(probability) - 0.2 * math.log(1 - probability)


PAIRWISE = {
    "dpo": (
        lambda c, r: dpo_loss(c, r, beta=0.3, label_smoothing=0.0),
        lambda c, r: -math.log(sigmoid(0.3 * c - 0.3 * r)),
    ),
    "conservative_dpo": (lambda c, r: dpo_loss(c, r, beta=0.3, label_smoothing=0.2), conservative),
    "ipo": (lambda c, r: ipo_loss(c, r, beta=0.25), lambda c, r: (c - r - 0.5 / 0.25) ** 2),
    "orpo": (
        lambda c, r: odds_ratio_loss(c, r, weight=0.4),
        lambda c, r: -0.4 * math.log(sigmoid(math.log(odds(c) / odds(r)))),
    ),
    "simpo": (
        lambda c, r: simpo_loss(c, r, beta=2.0, gamma=0.7),
        lambda c, r: -math.log(sigmoid(2 * c - 2 * r - 0.7)),
    ),
    "bradley_terry": (
        lambda c, r: bradley_terry_loss(c, r, 0.0, centring_coef=0.0),
        lambda c, r: -math.log(math.exp(c) / (math.exp(c) + math.exp(r))),
    ),
    "centred_with_margin": (
        lambda c, r: bradley_terry_loss(c, r, torch.full_like(c, 0.6), centring_coef=0.1),
        lambda c, r: -math.log(sigmoid(c - r - 0.6)) + 0.1 * (c + r) ** 2,
    ),
}


def points(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Negative, as the mean logprobs of ORPO are."""
    generator = torch.Generator().manual_seed(seed)
    chosen, rejected = -3 * torch.rand(2, 40, generator=generator, dtype=torch.float64) - 0.01
    return chosen.requires_grad_(), rejected.requires_grad_()


@pytest.mark.parametrize("name", PAIRWISE)
def test_values_and_slopes_of_pairs_equal_the_formula(name):
    """Slopes by central differences of the formula."""
    objective, formula = PAIRWISE[name]
    chosen, rejected = points(0)
    values = objective(chosen, rejected)
    values.sum().backward()
    step = 1e-6
    for i in range(len(chosen)):
        c, r = chosen[i].item(), rejected[i].item()
        assert values[i].item() == pytest.approx(formula(c, r), rel=1e-10)
        slope = (formula(c + step, r) - formula(c - step, r)) / (2 * step)
        assert chosen.grad[i].item() == pytest.approx(slope, rel=1e-6, abs=1e-8)
        slope = (formula(c, r + step) - formula(c, r - step)) / (2 * step)
        assert rejected.grad[i].item() == pytest.approx(slope, rel=1e-6, abs=1e-8)


def test_kto_equals_the_formula():
    weights = {True: 1.3, False: 0.8}
    generator = torch.Generator().manual_seed(1)
    ratios = (4 * torch.rand(40, generator=generator, dtype=torch.float64) - 2).requires_grad_()
    desirable = torch.rand(40, generator=generator) < 0.5
    baseline = torch.full_like(ratios, 0.4).detach()
    values = kto_loss(ratios, desirable, baseline, beta=0.5, desirable_weight=1.3, undesirable_weight=0.8)
    values.sum().backward()
    for i in range(len(ratios)):
        label, sign = bool(desirable[i]), 1 if desirable[i] else -1
        value = weights[label] * sigmoid(sign * 0.5 * (ratios[i].item() - 0.4))
        assert values[i].item() == pytest.approx(weights[label] - value, rel=1e-10)
        slope = -sign * 0.5 * value * (1 - value / weights[label])
        assert ratios.grad[i].item() == pytest.approx(slope, rel=1e-10)


def test_where_nothing_is_preferred_losses_are_log_two():
    same = torch.tensor([-1.5, -0.2])
    for loss in (
        dpo_loss(same, same, beta=0.1, label_smoothing=0.0),
        dpo_loss(same, same, beta=0.1, label_smoothing=0.4),
        odds_ratio_loss(same, same, weight=1.0),
        simpo_loss(same, same, beta=2.0, gamma=0.0),
        bradley_terry_loss(same, same, 0.0, centring_coef=0.0),
    ):
        torch.testing.assert_close(loss, torch.full((2,), math.log(2)))


def test_kto_at_its_reference_point_is_half_the_weight():
    ratios = torch.tensor([0.7, 0.7])
    loss = kto_loss(ratios, torch.tensor([True, False]), ratios, beta=0.1, desirable_weight=1.0, undesirable_weight=3.0)
    torch.testing.assert_close(loss, torch.tensor([0.5, 1.5]))


def test_minima():
    """IPO's at a margin of 1 / 2 beta; conservative DPO's where the preference has the probability 1 - smoothing; the
    centred scores' where they sum to 0."""
    margins = torch.linspace(-10, 10, 20001, dtype=torch.float64)
    zero = torch.zeros_like(margins)
    assert margins[ipo_loss(margins, zero, beta=0.1).argmin()].item() == pytest.approx(5.0, abs=1e-3)
    smoothed = dpo_loss(margins, zero, beta=1.0, label_smoothing=0.1)
    assert margins[smoothed.argmin()].item() == pytest.approx(math.log(0.9 / 0.1), abs=1e-3)
    centred = bradley_terry_loss(margins + 1, margins - 1, 0.0, centring_coef=0.01)
    assert margins[centred.argmin()].item() == pytest.approx(0.0, abs=1e-3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_log_odds_of_any_probability(dtype):
    """From impossible over even to certain, where the naive formula gives infinities and NaN gradients."""
    logprobs = torch.tensor([-700.0, -50.0, -math.log(2), -1e-4, -1e-30, 0.0], dtype=dtype, requires_grad=True)
    values = log_odds(logprobs)
    values.sum().backward()
    assert values[:4].tolist() == pytest.approx([-700.0, -50.0, 0.0, math.log(1 / 1e-4) - 0.5e-4], rel=1e-4, abs=1e-6)
    assert (values.diff() >= 0).all()
    assert values.isfinite().all()
    assert logprobs.grad.isfinite().all()
    assert logprobs.grad[:4].tolist() == pytest.approx([1.0, 1.0, 2.0, 1e4], rel=1e-4)
    assert logprobs.grad[5].item() == 0.0


def test_losses_stay_finite_where_a_probability_underflows():
    far, near = torch.tensor([-1e4, 1e4], requires_grad=True), torch.zeros(2)
    total = (
        dpo_loss(far, near, beta=1.0, label_smoothing=0.1)
        + simpo_loss(far, near, beta=2.0, gamma=1.0)
        + bradley_terry_loss(far, near, 0.0, centring_coef=0.0)
        + kto_loss(far, far > 0, near, beta=1.0, desirable_weight=1.0, undesirable_weight=1.0)
    ).sum()
    total.backward()
    assert total.isfinite()
    assert far.grad.isfinite().all()

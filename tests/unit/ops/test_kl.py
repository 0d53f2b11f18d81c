"""KL estimators: their values token by token, and what they are in expectation over the policy, summed exactly."""

import math

import pytest
import torch

from rlhf.ops.kl import KLEstimator, kl_divergence

THETA = [0.3, -1.2, 0.8, 2.0, -0.1]
REF = [1.0, 0.2, -0.5, 0.4, 0.0]


def softmax(logits: list[float]) -> list[float]:
    total = sum(math.exp(logit) for logit in logits)
    return [math.exp(logit) / total for logit in logits]


PI, RHO = softmax(THETA), softmax(REF)
KL = sum(p * math.log(p / r) for p, r in zip(PI, RHO, strict=True))


def expectation(estimator: KLEstimator) -> tuple[float, list[float]]:
    """Mean of the estimator over tokens of the policy, and the mean of its gradient with respect to the logits."""
    theta = torch.tensor(THETA, dtype=torch.float64, requires_grad=True)
    logprobs = theta.log_softmax(0)
    ref_logprobs = torch.tensor(REF, dtype=torch.float64).log_softmax(0)
    per_token = kl_divergence(logprobs[None], ref_logprobs[None], estimator)[0]
    total = sum(PI[i] * per_token[i] for i in range(len(THETA)))
    total.backward()
    return total.item(), theta.grad.tolist()


@pytest.mark.parametrize("estimator", list(KLEstimator))
def test_values_equal_schulmans_formulas(estimator):
    logprobs, ref_logprobs = [-0.5, -3.0, -0.01, -7.0], [-0.5, -1.0, -4.0, -2.0]
    values = kl_divergence(torch.tensor([logprobs]), torch.tensor([ref_logprobs]), estimator)
    for value, logprob, ref_logprob in zip(values[0].tolist(), logprobs, ref_logprobs, strict=True):
        r = math.exp(ref_logprob) / math.exp(logprob)
        expected = {"k1": -math.log(r), "k2": math.log(r) ** 2 / 2, "k3": r - 1 - math.log(r)}[estimator]
        assert value == pytest.approx(expected, rel=1e-5, abs=1e-6)
        assert value >= 0 or estimator is KLEstimator.k1


def test_k1_and_k3_are_unbiased_and_k2_is_not():
    assert expectation(KLEstimator.k1)[0] == pytest.approx(KL, abs=1e-12)
    assert expectation(KLEstimator.k3)[0] == pytest.approx(KL, abs=1e-12)
    assert abs(expectation(KLEstimator.k2)[0] - KL) > 1e-3


def test_k1_has_no_gradient():
    assert expectation(KLEstimator.k1)[1] == pytest.approx([0.0] * len(THETA), abs=1e-12)


def test_k2_has_the_gradient_of_the_kl():
    expected = [p * (math.log(p / r) - KL) for p, r in zip(PI, RHO, strict=True)]
    assert expectation(KLEstimator.k2)[1] == pytest.approx(expected, abs=1e-12)


def test_k3_has_the_gradient_of_the_kl_from_reference_to_policy():
    expected = [p - r for p, r in zip(PI, RHO, strict=True)]
    assert expectation(KLEstimator.k3)[1] == pytest.approx(expected, abs=1e-12)


def test_k3_keeps_its_digits_for_close_models():
    """exp(x) - 1 - x cancels in fp32; for x = 1e-3 the value is x^2 / 2 to a part in a thousand."""
    value = kl_divergence(torch.tensor([[-1.0]]), torch.tensor([[-0.999]]), KLEstimator.k3).item()
    assert value == pytest.approx(5e-7, rel=0.05)


@pytest.mark.parametrize(
    ("log_ratio", "value", "gradient"),
    [
        (99.9, math.exp(20) - 21, 0.0),
        (-99.9, 98.9, 1.0),
        (19.0, math.exp(19) - 20, 1 - math.exp(19)),
        (-19.0, math.exp(-19) + 18, 1 - math.exp(-19)),
    ],
)
def test_k3_of_distant_models_is_finite(log_ratio, value, gradient):
    """`log_ratio` = log(reference / policy); the gradient with respect to the policy's logprob is 1 - r."""
    logprobs = torch.tensor([[min(-log_ratio, 0.0)]], requires_grad=True)
    ref_logprobs = torch.tensor([[min(log_ratio, 0.0)]])
    k3 = kl_divergence(logprobs, ref_logprobs, KLEstimator.k3)
    k3.sum().backward()
    assert k3.item() == pytest.approx(value, rel=1e-5)
    assert logprobs.grad.item() == pytest.approx(gradient, rel=1e-5)


@pytest.mark.parametrize("log_ratio", [99.9, -99.9])
def test_k1_and_k2_have_no_bound(log_ratio):
    logprobs, ref_logprobs = torch.tensor([[min(-log_ratio, 0.0)]]), torch.tensor([[min(log_ratio, 0.0)]])
    assert kl_divergence(logprobs, ref_logprobs, KLEstimator.k1).item() == pytest.approx(-log_ratio)
    assert kl_divergence(logprobs, ref_logprobs, KLEstimator.k2).item() == pytest.approx(99.9**2 / 2, rel=1e-5)

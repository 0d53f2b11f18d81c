"""The expected gradient with each correction, over all answers of a behaviour policy, against the policy's true one."""

from __future__ import annotations

import pytest

from benchmarks.correction_error import BOUNDS, Problem
from rlhf.algorithms.base import AlgorithmConfig, Normalisation
from rlhf.algorithms.correction import CorrectionConfig
from rlhf.ops.correction import CorrectionKind

WIDE = {"token_truncate": {"high": 1e9}, "sequence_truncate": {"high": 1e9}, "token_mask": {"low": 1e-9, "high": 1e9},
        "sequence_mask": {"low": 1e-9, "high": 1e9}}  # fmt: skip


def error(problem: Problem, kind: str, **bounds: float) -> float:
    correction = CorrectionConfig(kind=CorrectionKind(kind), **bounds)
    config = AlgorithmConfig(normalisation=Normalisation.sequence_sums, correction=correction)
    true = problem.true_gradient()
    return ((problem.gradient(config) - true).norm() / true.norm()).item()


@pytest.mark.parametrize("kind", list(WIDE))
def test_ratios_without_a_bound_give_the_true_gradient_of_one_token(kind):
    assert error(Problem(0, 16, 1, 0.6), kind, **WIDE[kind]) < 1e-6
    assert error(Problem(0, 16, 1, 0.6), "off") > 0.3


@pytest.mark.parametrize("kind", ["sequence_truncate", "sequence_mask"])
def test_of_several_tokens_the_sequence_s_ratio_alone_gives_it(kind):
    problem = Problem(1, 5, 3, 0.3)
    assert error(problem, kind, **WIDE[kind]) < 1e-6
    assert error(problem, "token_truncate", **WIDE["token_truncate"]) > 0.05


def test_on_policy_every_correction_gives_it():
    for kind, bounds in BOUNDS.items():
        assert error(Problem(2, 5, 3, 0.0), kind.value, **bounds) < 1e-6


def test_the_size_of_the_error_is_the_documented_one():
    """A mean over few problems: without a correction about the log-ratio's deviation, with bounded weights far less."""
    problems = [Problem(seed, 64, 1, 0.3) for seed in range(5)]
    uncorrected = sum(error(problem, "off") for problem in problems) / len(problems)
    truncated = sum(error(problem, "token_truncate") for problem in problems) / len(problems)
    assert uncorrected == pytest.approx(0.3, abs=0.05)
    assert truncated < 0.03

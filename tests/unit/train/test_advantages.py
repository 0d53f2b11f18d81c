"""What an algorithm gives for a group is one finite number per survivor, or the run ends and says so."""

from __future__ import annotations

import math
import re

import pytest

from rlhf.algorithms.base import AlgorithmConfig
from rlhf.algorithms.policy_gradient import PolicyGradient
from rlhf.train.online import advantages_of
from rlhf.types import Failure, Group, RunError, Sampling, Score
from tests.unit.train.fakes import make_group, make_info

SCORES = (Score(value=1.0), Failure(kind="reward_timeout", message="10 s"), Score(value=0.0))
GROUP = make_group(7, [make_info(score) for score in SCORES])


class Given(PolicyGradient):
    advantages: list[float]

    def group_advantages(self, group: Group) -> list[float]:
        return self.advantages


@pytest.mark.parametrize("advantages", [[1.0], [1.0, 2.0, 3.0], [1.0, math.nan], [math.inf, 0.0]])
def test_what_does_not_fit_ends_the_run(advantages):
    algorithm = Given(AlgorithmConfig(), Sampling(temperature=1.0, max_tokens=4))
    algorithm.advantages = advantages
    sentence = f"Given.group_advantages gives {advantages} for 2 rollouts of prompt p7 that have a reward: "
    with pytest.raises(RunError, match=f"^{re.escape(sentence)}"):
        advantages_of(algorithm, GROUP)
    algorithm.advantages = [0.5, -0.5]
    assert advantages_of(algorithm, GROUP) == [0.5, -0.5]


def no_list(group: Group) -> float:
    return 0.5


def divides(group: Group) -> list[float]:
    return [1.0 / 0.0 for _ in group.survivors]


@pytest.mark.parametrize(
    ("function", "problem"),
    [(no_list, "TypeError: 'float' object is not iterable"), (divides, "ZeroDivisionError: float division by zero")],
)
def test_an_algorithm_that_raises_ends_the_run_in_a_sentence(function, problem):
    algorithm = Given(AlgorithmConfig(), Sampling(temperature=1.0, max_tokens=4))
    algorithm.group_advantages = function
    with pytest.raises(RunError, match=rf"^Given.group_advantages raises {problem} for 2 rollouts of prompt p7"):
        advantages_of(algorithm, GROUP)

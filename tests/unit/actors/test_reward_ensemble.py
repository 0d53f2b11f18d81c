"""Ensembles of reward models: the mean, or what a pessimist makes of it."""

import math
import statistics

import pytest

from rlhf.actors.reward_worker import ensemble_scores
from rlhf.rewards.base import RewardConfig
from rlhf.types import InputError

SCORES = [[1.0, -2.0, 0.5], [3.0, -2.0, 0.1], [2.0, -2.0, float("nan")]]


@pytest.mark.parametrize("pessimism", [0.0, 1.0, 2.5])
def test_the_score_is_the_mean_less_so_many_standard_deviations(pessimism):
    found = ensemble_scores(SCORES, pessimism)
    for i in (0, 1):
        column = [scores[i] for scores in SCORES]
        assert found[i] == pytest.approx(statistics.fmean(column) - pessimism * statistics.pstdev(column))
    assert found[1] == -2.0, "where all agree a pessimist is no lower"
    assert math.isnan(found[2]), "what one cannot read has no score"


def test_one_model_is_its_own_ensemble():
    assert ensemble_scores([[0.25, -1.0]], 0.0) == [0.25, -1.0]


@pytest.mark.parametrize(
    ("keys", "sentence"),
    [
        ({"ensemble": ["a"]}, "reward.ensemble has a: set reward.model"),
        ({"model": "a", "pessimism": 1.0}, "reward.pessimism=1.0: give 0 or more standard deviations, and models in"),
        ({"model": "a", "ensemble": ["b"], "pessimism": -1.0}, "reward.pessimism=-1.0: give 0 or more"),
    ],
)
def test_half_an_ensemble_is_refused(keys, sentence):
    with pytest.raises(InputError, match=f"^{sentence}"):
        RewardConfig(**keys)

"""Group relative scores: closed forms and invariances."""

import statistics

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlhf.ops.advantages import group_relative_advantages

REWARDS = st.lists(st.floats(-100, 100), min_size=2, max_size=16)


def test_closed_forms():
    assert group_relative_advantages([1.0, 0.0, 0.0, 0.0], scale_by_std=False) == [0.75, -0.25, -0.25, -0.25]
    # The sample standard deviation of (1, 0, 0, 0) is 1/2.
    scaled = group_relative_advantages([1.0, 0.0, 0.0, 0.0], scale_by_std=True)
    assert scaled == pytest.approx([1.5, -0.5, -0.5, -0.5], rel=3e-6)


@pytest.mark.parametrize("scale_by_std", [True, False])
@pytest.mark.parametrize("value", [0.0, 1.0, 0.1, -3.7, 1e4 / 3])
def test_equal_rewards_teach_nothing(value, scale_by_std):
    assert group_relative_advantages([value] * 7, scale_by_std=scale_by_std) == pytest.approx([0.0] * 7, abs=1e-5)


@given(REWARDS)
@settings(max_examples=60, deadline=None)
def test_scores_equal_a_loop(rewards):
    mean, deviation = statistics.fmean(rewards), statistics.stdev(rewards)
    plain = [reward - mean for reward in rewards]
    assert group_relative_advantages(rewards, scale_by_std=False) == pytest.approx(plain, abs=1e-9)
    scaled = [value / (deviation + 1e-6) for value in plain]
    assert group_relative_advantages(rewards, scale_by_std=True) == pytest.approx(scaled, abs=1e-6)


@given(REWARDS, st.booleans(), st.floats(-50, 50))
@settings(max_examples=60, deadline=None)
def test_mean_is_zero_and_a_shift_changes_nothing(rewards, scale_by_std, shift):
    scores = group_relative_advantages(rewards, scale_by_std=scale_by_std)
    assert abs(sum(scores)) < 1e-6
    shifted = group_relative_advantages([reward + shift for reward in rewards], scale_by_std=scale_by_std)
    assert shifted == pytest.approx(scores, abs=1e-6)

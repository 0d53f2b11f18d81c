"""Intervals of a share by name: published values, statsmodels."""

import numpy as np
import pytest
from statsmodels.stats.proportion import proportion_confint

from rlhf.ops.shares import clopper_pearson_interval, wilson_interval

# Newcombe 1998, table I, methods 3 and 5.
PUBLISHED = {
    (81, 263): ((0.2553, 0.3662), (0.2527, 0.3676)),
    (15, 148): ((0.0624, 0.1605), (0.0578, 0.1617)),
    (0, 20): ((0.0, 0.1611), (0.0, 0.1684)),
    (1, 29): ((0.0061, 0.1718), (0.0009, 0.1776)),
}


@pytest.mark.parametrize(("successes", "count"), PUBLISHED)
def test_intervals_are_those_of_published_examples(successes: int, count: int) -> None:
    wilson, exact = PUBLISHED[successes, count]
    assert [float(end) for end in wilson_interval(successes, count)] == pytest.approx(wilson, abs=5e-5)
    assert [float(end) for end in clopper_pearson_interval(successes, count)] == pytest.approx(exact, abs=5e-5)


@pytest.mark.parametrize("alpha", [0.05, 0.01])
def test_intervals_agree_with_statsmodels(alpha: float) -> None:
    for interval, method in ((wilson_interval, "wilson"), (clopper_pearson_interval, "beta")):
        for count in (1, 2, 17, 400):
            successes = np.arange(count + 1)
            result = interval(successes, np.full(count + 1, count), alpha)
            expected = [proportion_confint(each, count, alpha=alpha, method=method) for each in successes]
            assert np.stack(result, axis=1) == pytest.approx(np.array(expected), abs=1e-12)

"""pass@k against binomials, and against all choices of k samples."""

import itertools
from math import comb

import numpy as np
import pytest

from rlhf.ops.pass_at import pass_at


@pytest.mark.parametrize("num_samples", [1, 4, 7, 64])
def test_it_is_one_minus_the_share_of_choices_without_a_right_sample(num_samples):
    right = np.arange(num_samples + 1)
    for k in range(1, num_samples + 1):
        expected = [1 - comb(num_samples - int(c), k) / comb(num_samples, k) for c in right]
        np.testing.assert_allclose(pass_at(right, np.full_like(right, num_samples), k), expected, atol=1e-12)


def test_it_is_the_share_of_choices_with_a_right_sample():
    samples = [True, False, False, True, False]
    for k in (1, 2, 3):
        share = np.mean([any(chosen) for chosen in itertools.combinations(samples, k)])
        assert pass_at(np.array([2]), np.array([5]), k)[0] == pytest.approx(share)


def test_many_samples_do_not_overflow():
    found = pass_at(np.array([0, 1, 5000]), np.array([10_000] * 3), 1000)
    np.testing.assert_allclose(found, [0.0, 0.1, 1.0], atol=1e-12)

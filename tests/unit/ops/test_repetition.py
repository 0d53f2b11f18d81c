"""Repetition, against its definition over explicit n-grams."""

import numpy as np
import pytest

from rlhf.ops.repetition import repetition


def row(token_ids: list[int], mask: list[int] | None = None) -> tuple[np.ndarray, np.ndarray]:
    return np.array(token_ids, dtype=np.int32), np.array(mask or [1] * len(token_ids), dtype=bool)


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([], 0.0),
        ([row([])], 0.0),
        ([row([5, 5, 5])], 0.0),
        ([row([5, 5, 5, 5])], 0.0),
        ([row([5, 5, 5, 5, 5])], 1 - 1 / 2),
        ([row([1, 2, 3, 4] * 10)], 1 - 4 / 37),
        ([row(list(range(40)))], 0.0),
        # The prompt is no n-gram, and none spans the prompt and the answer or the turn of an environment.
        ([row([1, 2, 3, 4, 1, 2, 3, 4], [0, 0, 0, 0, 1, 1, 1, 1])], 0.0),
        ([row([1, 2, 3, 4, 9, 1, 2, 3, 4], [1, 1, 1, 1, 0, 1, 1, 1, 1])], 1 - 1 / 2),
        # Rows of an episode count together.
        ([row([1, 2, 3, 4]), row([7, 1, 2, 3, 4], [0, 1, 1, 1, 1])], 1 - 1 / 2),
        ([row([1, 256, 3, 4]), row([256, 1, 3, 4])], 0.0),
    ],
)
def test_it_is_the_share_of_repeated_4_grams(rows, expected):
    assert repetition(rows) == expected


def test_random_tokens_equal_a_count_of_tuples():
    generator = np.random.default_rng(0)
    token_ids, mask = generator.integers(0, 3, 500), generator.random(500) < 0.8
    grams = [tuple(token_ids[i : i + 4]) for i in range(497) if mask[i : i + 4].all()]
    assert 0 < len(set(grams)) < len(grams)
    assert repetition([(token_ids, mask)]) == pytest.approx(1 - len(set(grams)) / len(grams), abs=1e-15)

"""Figures that merge in any order, and the learning rate in closed form."""

import math
import random
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlhf.runtimes.configs import OptimizerConfig, Schedule
from rlhf.train.schedule import learning_rate
from rlhf.train.stats import Stats, merge

# Integers add without rounding, so that any order gives the very same sums.
ENTRIES = st.lists(st.tuples(st.sampled_from("abc"), st.integers(-50, 50), st.integers(0, 9)), max_size=8)


def make(entries: list[tuple[str, int, int]]) -> Stats:
    stats = Stats()
    for name, total, weight in entries:
        stats.add(name, total, weight)
        stats.add_max(f"{name}_max", total)
        stats.add_vector(name, [total, weight], shares)
    return stats


def shares(sums: Sequence[float]) -> dict[str, float]:
    return {"of_all": sums[0] / sum(sums)} if sum(sums) else {}


@given(st.lists(ENTRIES, min_size=1, max_size=5), st.randoms(use_true_random=False))
@settings(max_examples=60, deadline=None)
def test_merging_is_commutative_and_associative(shares, generator: random.Random):
    expected = make([entry for share in shares for entry in share])
    parts = [make(share) for share in shares]
    generator.shuffle(parts)
    while len(parts) > 1:
        i = generator.randrange(len(parts) - 1)
        parts[i : i + 2] = [merge(parts[i : i + 2])]
    assert merge(parts) == expected
    assert merge([expected, Stats()]) == merge([Stats(), expected]) == expected


def test_values_are_weighted_means_and_maxima():
    stats = make([("a", 6, 2), ("a", -1, 3), ("b", 7, 0), ("c", 0, 0)])
    stats.add_max("nothing_max", -math.inf)
    assert stats.values() == {"a": 1.0, "a_max": 6, "b_max": 7, "c_max": 0, "a_of_all": 0.5, "b_of_all": 1.0}
    assert stats.prefixed("critic/").values()["critic/a_of_all"] == 0.5


def rates(num_steps: int, **keys) -> list[float]:
    return [learning_rate(OptimizerConfig(lr=2.0, **keys), step, num_steps) for step in range(num_steps)]


def test_constant_rate_and_warm_up():
    assert rates(3) == [2.0] * 3
    assert rates(6, warmup_steps=4) == [0.5, 1.0, 1.5, 2.0, 2.0, 2.0]
    assert rates(2, warmup_steps=4) == [0.5, 1.0]


def test_linear_decay():
    assert rates(5, schedule=Schedule.linear) == pytest.approx([2.0, 1.5, 1.0, 0.5, 0.0])
    assert rates(7, schedule=Schedule.linear, warmup_steps=2, final_lr_fraction=0.5) == pytest.approx(
        [1.0, 2.0, 2.0, 1.75, 1.5, 1.25, 1.0]
    )


def test_cosine_decay():
    half = [0.1 * 2 + 0.9 * 2 * (1 + math.cos(math.pi * i / 4)) / 2 for i in range(5)]
    assert rates(5, schedule=Schedule.cosine, final_lr_fraction=0.1) == pytest.approx(half)
    assert half[2] == pytest.approx(1.1)
    assert half[-1] == pytest.approx(0.2)


@pytest.mark.parametrize("schedule", list(Schedule))
@pytest.mark.parametrize("num_steps", [1, 2, 3])
def test_the_shortest_runs_have_a_rate(schedule, num_steps):
    found = rates(num_steps, schedule=schedule, warmup_steps=num_steps - 1)
    assert all(0 < rate <= 2.0 for rate in found)
    assert learning_rate(OptimizerConfig(lr=2.0, schedule=schedule), 10, 5) == pytest.approx(
        2.0 if schedule is Schedule.constant else 0.0
    )

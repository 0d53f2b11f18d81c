"""Rules that end members early."""

import pytest

from rlhf.sweeps.config import Pruning
from rlhf.sweeps.pruning import MIN_PEERS, Curve, is_hopeless


def line(slope: float, num_steps: int, every: int = 1) -> Curve:
    return {step: slope * step for step in range(every, num_steps + 1, every)}


PEERS = [line(slope, 30) for slope in (1.0, 2.0, 3.0, 4.0)]


@pytest.mark.parametrize(
    ("slope", "num_steps", "expected"),
    [(2.4, 20, True), (2.6, 20, False), (0.0, 9, False), (0.0, 10, True), (2.4, 31, False)],
)
def test_the_median_rule_compares_the_best_value_with_earlier_members_at_the_same_step(slope, num_steps, expected):
    assert is_hopeless(Pruning.median, line(slope, num_steps), PEERS, start=10) is expected


def test_the_median_of_too_few_is_not_trusted():
    assert not is_hopeless(Pruning.median, line(0.0, 20), PEERS[: MIN_PEERS - 1], start=10)
    assert is_hopeless(Pruning.median, line(0.0, 20), PEERS, start=10)


def test_the_best_value_counts_after_a_bad_step():
    curve = {**line(3.0, 19), 20: -100.0}
    assert not is_hopeless(Pruning.median, curve, PEERS, start=10)


@pytest.mark.parametrize(
    ("curve", "peers", "expected"),
    [
        (line(1.0, 9), PEERS, False),  # before the first rung
        (line(1.0, 10), [], False),  # the first member there
        (line(1.0, 10), PEERS[1:2], True),
        (line(2.5, 10), PEERS, True),  # third of five, one passes
        (line(5.0, 10), PEERS, False),
        (line(3.5, 10), [*PEERS, line(0.5, 30)], False),  # second of six, two pass
        ({**line(0.0, 29), 30: 99.0}, PEERS, True),  # at 30: second of five
        ({**line(0.0, 29), 30: 121.0}, PEERS, False),  # at 30: first, whatever it was at 10
        ({**line(0.0, 29), 30: 99.0}, [line(9.0, 29)], False),  # the other never reached the rung
    ],
)
def test_halving_lets_the_best_third_of_a_rung_pass(curve, peers, expected):
    assert is_hopeless(Pruning.halving, curve, peers, start=10) is expected


def test_figures_measured_seldom_are_compared_at_their_newest_value():
    curve, peers = line(1.0, 16, every=8), [line(2.0, 16, every=8)] * MIN_PEERS
    assert is_hopeless(Pruning.halving, curve, peers, start=10)
    assert is_hopeless(Pruning.median, curve, peers, start=10)


@pytest.mark.parametrize("rule", list(Pruning))
def test_a_member_without_figures_goes_on(rule):
    assert not is_hopeless(rule, {}, PEERS, start=1)

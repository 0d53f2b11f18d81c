"""Strengths of systems: a published table, statsmodels, closed form, data that does not determine them."""

import math

import numpy as np
import pytest
import statsmodels.api as sm

from rlhf.ops.bradley_terry import SeparatedError, bradley_terry, elo
from rlhf.ops.intervals import Z
from rlhf.types import InputError

# Agresti 2002, section 10.6: games of the American League's Eastern Division in 1987, winners in rows.
TEAMS = ("Milwaukee", "Detroit", "Toronto", "New York", "Boston", "Cleveland", "Baltimore")
GAMES = np.array([
    [0, 7, 9, 7, 7, 9, 11],
    [6, 0, 7, 5, 11, 9, 9],
    [4, 6, 0, 7, 7, 8, 12],
    [6, 8, 6, 0, 6, 7, 10],
    [6, 2, 6, 7, 0, 7, 12],
    [4, 4, 5, 6, 6, 0, 6],
    [2, 4, 1, 3, 1, 7, 0],
])  # fmt: skip


def test_strengths_are_those_of_a_published_example() -> None:
    # Agresti 2002, section 10.6, with Baltimore at 0.
    result = bradley_terry(GAMES, TEAMS)
    assert result.values - result.values[-1] == pytest.approx([1.58, 1.44, 1.29, 1.25, 1.11, 0.68, 0.0], abs=6e-3)
    assert result.values.sum() == pytest.approx(0, abs=1e-9)


def test_strengths_and_errors_agree_with_a_logistic_regression() -> None:
    design, right = [], []
    for i in range(7):
        for j in range(7):
            row = np.zeros(7)
            row[i], row[j] = 1, -1
            design += [row] * GAMES[i, j]
            right += [1.0] * GAMES[i, j]
    # statsmodels needs both outcomes, so that every second game is written from the loser's side.
    sides = np.where(np.arange(len(right)) % 2, 1.0, -1.0)
    fit = sm.Logit((sides > 0).astype(float), (np.array(design) * sides[:, None])[:, :-1]).fit(disp=False)
    result = bradley_terry(GAMES, TEAMS)
    for i, name in enumerate(TEAMS[:-1]):
        difference = result.difference(name, "Baltimore")
        assert difference.mean == pytest.approx(fit.params[i], abs=1e-6)
        assert (difference.low, difference.high) == pytest.approx(fit.conf_int()[i], abs=1e-5)


def test_two_systems_have_the_log_odds_with_ties_as_half() -> None:
    # 6 wins, 2 losses, 4 ties: odds of 8 to 4, information 12 x 2/3 x 1/3.
    result = bradley_terry(np.array([[0, 8.0], [4.0, 0]]), ["a", "b"])
    difference = result.difference("a", "b")
    assert difference.mean == pytest.approx(math.log(2))
    assert difference.high - difference.mean == pytest.approx(Z * math.sqrt(1 / (12 * 2 / 9)))
    assert result.strength("a").mean == pytest.approx(math.log(2) / 2)
    assert result.strength("a").high - result.strength("a").mean == pytest.approx(Z * math.sqrt(1 / (12 * 2 / 9)) / 2)


def test_elo_of_ten_to_one_is_400_points() -> None:
    result = bradley_terry(np.array([[0, 10.0], [1.0, 0]]), ["a", "b"])
    one, other = elo(result.strength("a")), elo(result.strength("b"))
    assert one.mean - other.mean == pytest.approx(400)
    assert one.mean + other.mean == pytest.approx(2000)
    assert one.low < one.mean < one.high


def test_order_of_systems_and_copies_of_games() -> None:
    order = np.array([3, 0, 6, 2, 5, 1, 4])
    result, moved = bradley_terry(GAMES, TEAMS), bradley_terry(GAMES[np.ix_(order, order)], [TEAMS[i] for i in order])
    assert moved.values == pytest.approx(result.values[order], abs=1e-8)
    twice = bradley_terry(2 * GAMES, TEAMS)
    assert twice.values == pytest.approx(result.values, abs=1e-8)
    assert twice.covariance == pytest.approx(result.covariance / 2)
    assert bradley_terry(np.zeros((1, 1)), ["alone"]).values == pytest.approx([0])


def test_extreme_records_have_a_maximum() -> None:
    result = bradley_terry(np.array([[0, 10_000.0], [0.5, 0]]), ["a", "b"])
    assert result.difference("a", "b").mean == pytest.approx(math.log(20_000), rel=1e-4)


@pytest.mark.parametrize(
    ("wins", "groups"),
    [
        ([[0, 5, 1], [5, 0, 2], [0, 0, 0]], {("a", "b"), ("丙",)}),
        ([[0, 5, 0], [5, 0, 0], [0, 0, 0]], {("a", "b"), ("丙",)}),
    ],
)
def test_systems_without_a_common_scale_are_named(wins: list[list[int]], groups: set[tuple[str, ...]]) -> None:
    with pytest.raises(SeparatedError, match="compare them on more prompts") as caught:
        bradley_terry(np.array(wins), ["a", "b", "丙"])
    assert set(caught.value.groups) == groups
    assert "[a, b]" in str(caught.value)
    assert "[丙]" in str(caught.value)
    assert isinstance(caught.value, InputError)

"""Assignment of users to arms."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from rlhf.types import InputError
from serve.statistics.assignment import Assignment, Split, assign, uniform

USERS = [f"user-{number}" for number in range(4_000)]


def arms_of(weights, salt="r7"):
    return np.array([assign(weights, salt, user) for user in USERS])


def split(**changes):
    fields = {
        "experiment": "r7/canary-25",
        "salt": "r7",
        "weights": {"new": 0.25, "old": 0.75},
        "candidate": "new",
        "predecessor": "old",
    }
    return Split(**(fields | changes))


@pytest.mark.parametrize(
    "weights",
    [
        {"new": 0.01, "old": 0.99},
        {"new": 0.5, "old": 0.5},
        {"a": 0.1, "b": 0.2, "c": 0.3, "d": 0.4},
        {str(number): 0.05 for number in range(20)},
    ],
)
def test_arms_get_their_shares(weights):
    arms = arms_of(weights)
    for arm, weight in weights.items():
        # At 1e-5 a right assignment fails none of these few cases; the users are fixed, so it never flakes.
        assert stats.binomtest(int((arms == arm).sum()), len(USERS), weight).pvalue > 1e-5


def test_a_user_stays_whatever_the_order_of_the_arms():
    weights = {"a": 0.2, "b": 0.3, "c": 0.5}
    assert (arms_of(weights) == arms_of(dict(reversed(weights.items())))).all()


def test_growing_an_arm_moves_users_to_it_alone():
    steps = [0.0, 0.01, 0.05, 0.25, 0.5, 1.0]
    looks = [arms_of({"new": share, "old": 1 - share}) for share in steps]
    assert (looks[0] == "old").all()
    assert (looks[-1] == "new").all()
    for before, after in itertools.pairwise(looks):
        assert (after[before == "new"] == "new").all()


def test_changed_weights_move_users_from_shrinking_to_growing_arms_and_no_more_of_them_than_needed():
    before, after = {"a": 0.5, "b": 0.3, "c": 0.2}, {"a": 0.2, "b": 0.3, "c": 0.5}
    old, new = arms_of(before), arms_of(after)
    moved = old != new
    assert set(zip(old[moved], new[moved], strict=True)) <= {("a", "b"), ("a", "c"), ("b", "c")}
    # Arm b keeps its share but is less of a rival to c and more of one to a: some users pass through it.
    assert moved.mean() < 0.4


def test_an_arm_that_leaves_moves_only_its_own_users():
    old, new = arms_of({"a": 0.25, "b": 0.25, "c": 0.5}), arms_of({"a": 0.5, "b": 0.5})
    assert (old[old != "c"] != new[old != "c"]).mean() == 0.0


def test_salts_are_independent():
    weights = {"new": 0.5, "old": 0.5}
    first, second = arms_of(weights, "r7") == "new", arms_of(weights, "r8") == "new"
    table = [[(first & second).sum(), (first & ~second).sum()], [(~first & second).sum(), (~first & ~second).sum()]]
    assert stats.chi2_contingency(table).pvalue > 1e-4


def test_draws_are_uniform_and_words_are_kept_apart():
    draws = [uniform("r7", user, "new") for user in USERS]
    assert stats.kstest(draws, "uniform").pvalue > 1e-4
    assert uniform("a", "bc", "d") != uniform("ab", "c", "d")


@settings(max_examples=50, deadline=None)
@given(user=st.text(st.characters(), max_size=20), salt=st.text(max_size=5))
def test_any_text_is_a_user(user, salt):
    arm = assign({"new": 0.3, "old": 0.7, "never": 0.0}, salt, user)
    assert arm in ("new", "old")
    assert arm == assign({"new": 0.3, "old": 0.7}, salt, user)


@pytest.mark.parametrize("user", ["", "用户", "\u00e9", "e\u0301", "\x00", "\ud800"])
def test_unusual_users(user):
    assert 0 < uniform("r7", user, "new") < 1
    assert split().assign(user) == split().assign(user)


def test_lists_go_before_chance():
    lists = split(allow=frozenset({"ann"}), deny=frozenset({"bob"}), weights={"new": 0.0, "old": 1.0})
    assert lists.assign("ann") == Assignment(variant="new", listed=True)
    assert lists.assign("bob") == Assignment(variant="old", listed=True)
    assert lists.assign("eve") == Assignment(variant="old", listed=False)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"weights": {"new": 0.25, "old": 0.7}}, "sum to 0.95"),
        ({"weights": {"new": 0.25, "old": 0.75 + 2e-9}}, "make them sum to 1"),
        ({"weights": {"new": -0.1, "old": 1.1}}, "'new' has weight -0.1"),
        ({"weights": {"new": math.nan, "old": 1.0}}, "'new' has weight nan"),
        ({"weights": {"new": math.inf, "old": 1.0}}, "sum to inf"),
        ({"weights": {"old": 1.0}}, "at least two"),
        ({"weights": {}}, "at least two"),
        ({"candidate": "newer"}, "candidate 'newer' is none of its arms"),
        ({"predecessor": "new"}, "both candidate and predecessor"),
        ({"allow": frozenset({"ann"}), "deny": frozenset({"ann"})}, "'ann'.* both the allow and the deny list"),
    ],
)
def test_what_is_no_experiment_is_refused_in_a_sentence(changes, words):
    with pytest.raises(InputError, match=words) as error:
        split(**changes)
    assert "r7/canary-25" in str(error.value)
    assert "\n" not in str(error.value)


def test_rounding_of_weights_is_forgiven():
    assert split(weights={**{str(number): 0.1 for number in range(8)}, "new": 0.1, "old": 0.1}).assign("ann")

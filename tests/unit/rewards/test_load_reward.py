"""From the config to a function that gives a finite Score or a Failure, whatever the user's code does."""

from __future__ import annotations

import math
from dataclasses import replace
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf
from reward_samples import FAULTY, prompt, rollout

from rlhf.rewards.base import RewardConfig, load_reward
from rlhf.rewards.lookup import by_own_names
from rlhf.types import Failure, InputError, Score

junk_reward = load_reward(RewardConfig(functions=[f"{FAULTY}:junk"]))


class Hostile(float):
    def __float__(self) -> float:
        raise RuntimeError("no")

    def __repr__(self) -> str:
        raise RuntimeError("no")


def invalid_score(value: object, parts: object) -> Score:
    """A Score made past its check, as with python -O."""
    score = Score(value=0.0)
    object.__setattr__(score, "value", value)
    object.__setattr__(score, "parts", parts)
    return score


scalars = st.one_of(
    st.none(),
    st.text(),
    st.binary(),
    st.booleans(),
    st.integers(),
    st.integers(min_value=10**400),
    st.floats(),
    st.complex_numbers(),
    st.decimals(),
    st.fractions(),
    st.floats(width=32).map(np.float32),
    st.booleans().map(np.bool_),
    st.builds(object),
    st.builds(Hostile),
    st.lists(st.floats(), max_size=2).map(np.array),
)
junk = (
    scalars
    | st.lists(scalars)
    | st.dictionaries(st.text(), scalars)
    | st.builds(Failure, kind=scalars, message=scalars)
)
junk |= st.builds(invalid_score, scalars, scalars | st.dictionaries(scalars.filter(lambda key: key.__hash__), scalars))


@given(junk)
def test_whatever_a_reward_returns_the_result_is_a_finite_score_or_a_failure(value: object) -> None:
    result = junk_reward(prompt(junk=value), rollout())
    if isinstance(result, Score):
        assert all(type(number) is float and math.isfinite(number) for number in (result.value, *result.parts.values()))
    else:
        assert isinstance(result, Failure)
        assert type(result.kind) is str
        assert "faulty_rewards.py:junk" in result.message


@pytest.mark.parametrize(
    "value", [1, True, 1.0, np.float32(1), np.int64(1), np.bool_(True), Fraction(1), Score(value=1)]
)
def test_numbers_are_scores(value: object) -> None:
    assert junk_reward(prompt(junk=value), rollout()) == Score(value=1.0, parts={"faulty_rewards.py:junk": 1.0})


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (None, "None (NoneType)"),
        ("1.0", "'1.0' (str)"),
        (math.nan, "nan (float)"),
        (-math.inf, "-inf (float)"),
        (np.float32("nan"), "np.float32(nan) (float32)"),
        (Decimal(1), "Decimal('1') (Decimal)"),
        ([1.0], "[1.0] (list)"),
        (invalid_score(math.nan, {}), "nan (float)"),
    ],
)
def test_no_number_is_invalid(value: object, said: str) -> None:
    assert junk_reward(prompt(junk=value), rollout()) == Failure(
        kind="reward_invalid", message=f"reward faulty_rewards.py:junk returned {said}, not a finite number"
    )


def test_an_exception_is_said_with_its_place() -> None:
    line = next(n for n, text in enumerate(FAULTY.read_text().splitlines(), 1) if "1 / 0" in text)
    assert load_reward(RewardConfig(functions=[f"{FAULTY}:raising"]))(prompt(), rollout()) == Failure(
        kind="reward_error",
        message=f"reward faulty_rewards.py:raising: ZeroDivisionError: division by zero ({FAULTY}:{line})",
    )


def test_a_users_failure_keeps_its_kind() -> None:
    result = junk_reward(prompt(junk=Failure(kind="judge", message="busy")), rollout())
    assert result == Failure(kind="judge", message="reward faulty_rewards.py:junk: busy")


def test_the_value_is_the_weighted_sum_and_the_parts_are_unweighted() -> None:
    several = f"{FAULTY}:several"
    name = "faulty_rewards.py:several"
    config = RewardConfig(functions=["exact", several], weights=[0.5, -2.0], options={name: {"scale": 10.0}})
    assert load_reward(config)(prompt("3"), rollout("3")) == Score(
        value=0.5 - 60.0, parts={"exact": 1.0, name: 30.0, f"{name}/style": 1.0, f"{name}/facts": 2.0}
    )


def test_a_prompts_set_may_have_rewards_of_its_own() -> None:
    """Functions that its set does not name are not called, so none can fail."""
    name = "faulty_rewards.py:several"
    config = RewardConfig(functions=["exact", f"{FAULTY}:raising", f"{FAULTY}:several"])
    own = replace(prompt("3"), reward_weights={name: -2.0, "reward_model": 1.0})
    parts = {name: 3.0, f"{name}/style": 1.0, f"{name}/facts": 2.0}
    assert load_reward(config)(own, rollout("3")) == Score(value=-6.0, parts=parts)
    assert load_reward(config)(replace(own, reward_weights={"reward_model": 1.0}), rollout()) == Score(value=0.0)


def test_one_failure_fails_the_whole() -> None:
    result = load_reward(RewardConfig(functions=["exact", f"{FAULTY}:raising"]))(prompt("3"), rollout("3"))
    assert isinstance(result, Failure)
    assert result.message.startswith("reward faulty_rewards.py:raising: ")


def test_a_sum_that_overflows_is_invalid() -> None:
    reward = load_reward(RewardConfig(functions=[f"{FAULTY}:junk"], weights=[10.0]))
    assert reward(prompt(junk=1e308), rollout()) == Failure(
        kind="reward_invalid", message="reward faulty_rewards.py:junk: the weighted sum is inf"
    )


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (
            {"functions": ["exakt"]},
            "'exakt', which is no reward: use one of exact, format, http, length, math_verify, numeric, ",
        ),
        (
            {"functions": ["/no/such.py:f"]},
            "reward.functions has '/no/such.py:f', but there is no file /no/such.py: correct",
        ),
        (
            {"functions": ["no.such:f"]},
            "'no.such:f', whose import raises ModuleNotFoundError: No module named 'no': correct",
        ),
        ({"functions": ["rlhf.types:f"]}, "but f does not exist in rlhf.types: name one of its functions"),
        ({"functions": [f"{FAULTY}:NOT_CALLABLE"]}, "but NOT_CALLABLE is not callable in /"),
        ({"functions": [f"{FAULTY}:needs_option"]}, "missing a required argument: 'required'; its options: required"),
        ({"functions": ["builtins:dict"]}, "reward builtins:dict has no signature"),
        (
            {"functions": ["length"]},
            "missing a required argument: 'max_tokens'; its options: max_tokens, buffer_tokens",
        ),
        (
            {"options": {"exact": {"case": True}}},
            "reward exact cannot be called as exact(prompt, rollout, **reward.options.exact): "
            "got an unexpected keyword argument 'case'; its options: ignore_case",
        ),
        ({"options": {"exact": True}}, "reward.options.exact is True: give keyword arguments, such as {key: value}"),
        ({"options": {"length": {}}}, "reward.options has 'length', which is not among reward.functions (exact)"),
        ({"functions": ["exact", "exact"]}, "reward.functions names exact twice: give functions of different names"),
        ({"functions": []}, "reward.functions is empty: name at least one, such as exact"),
        (
            {"weights": [1.0, 2.0]},
            "reward.weights has 2 values for 1 functions (exact): give one per function, or null",
        ),
        ({"weights": [math.nan]}, "reward.weights holds nan: give finite numbers"),
        ({"timeout_s": 0.0}, "reward.timeout_s is 0.0: give a positive number of seconds"),
        ({"timeout_s": math.inf}, "reward.timeout_s is inf"),
        ({"num_processes": 0}, "reward.num_processes is 0: give at least 1"),
        ({"max_attempts": 0}, "reward.max_attempts is 0: give at least 1"),
    ],
)
def test_a_mistake_is_one_sentence(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError) as caught:
        load_reward(RewardConfig(**settings))
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_class_is_made_once_with_its_options_and_its_instance_called() -> None:
    name = "faulty_rewards.py:Counting"
    config = RewardConfig(functions=[f"{FAULTY}:Counting"], options={name: {"start": 10}})
    reward = load_reward(config)
    assert [reward(prompt(), rollout()) for _ in range(2)] == [
        Score(value=value, parts={name: value}) for value in (11.0, 12.0)
    ]


@pytest.mark.parametrize(
    ("attribute", "options", "said"),
    [
        ("Counting", {}, "called as Counting(**reward.options.Counting): missing a required argument: 'start'; its"),
        (
            "Counting",
            {"start": "x"},
            "cannot be made from reward.options.Counting, ValueError: invalid literal for int",
        ),
        ("NoCall", {}, "reward NoCall is a class without __call__(self, prompt, rollout): write that method"),
    ],
)
def test_a_class_that_cannot_be_made_is_one_sentence(attribute: str, options: dict[str, Any], said: str) -> None:
    name = f"faulty_rewards.py:{attribute}"
    with pytest.raises(InputError) as caught:
        load_reward(RewardConfig(functions=[f"{FAULTY}:{attribute}"], options={name: options}))
    assert said in str(caught.value).replace("faulty_rewards.py:", "")


def test_options_go_by_the_name_of_a_function_without_its_file() -> None:
    functions = [f"{FAULTY}:Counting", "exact"]
    options = {"Counting": {"start": 10}, "exact": {"ignore_case": True}}
    score = load_reward(RewardConfig(functions=functions, options=options))(prompt("a"), rollout("A"))
    assert score.parts == {"faulty_rewards.py:Counting": 11.0, "exact": 1.0}
    assert by_own_names(functions, {"faulty_rewards.py:Counting": {"start": 10}}) == {"Counting": {"start": 10}}


def test_options_that_two_functions_may_mean_are_a_mistake(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("def exact(prompt, rollout, *, scale=1.0):\n    return scale\n")
    (tmp_path / "other.py").write_text("def exact(prompt, rollout, *, scale=1.0):\n    return scale\n")
    mine, other = f"{tmp_path}/mine.py:exact", f"{tmp_path}/other.py:exact"
    with pytest.raises(InputError, match=r"'exact', which mine.py:exact and other.py:exact are called: rename one, or"):
        load_reward(RewardConfig(functions=[mine, other], options={"exact": {"scale": 2.0}}))
    # The full name is the built-in's; the other function has its file's.
    both = {"exact": {"ignore_case": True}, "mine.py:exact": {"scale": 3.0}}
    score = load_reward(RewardConfig(functions=["exact", mine], options=both))(prompt("a"), rollout("A"))
    assert score.parts == {"exact": 1.0, "mine.py:exact": 3.0}
    assert by_own_names(["exact", mine], both) == both
    with pytest.raises(InputError, match=r"reward.options has mine.py:exact twice, as 'exact' and as 'mine.py:exact'"):
        load_reward(RewardConfig(functions=[mine], options=both))


def test_a_file_that_does_not_import_is_a_mistake(tmp_path: Path) -> None:
    (tmp_path / "bad.py").write_text("def reward(:\n")
    with pytest.raises(InputError, match=r"bad.py:reward', whose import raises SyntaxError: .*\(bad.py, line 1\)"):
        load_reward(RewardConfig(functions=[f"{tmp_path}/bad.py:reward"]))


def test_the_config_is_a_hydra_schema() -> None:
    schema = OmegaConf.structured(RewardConfig)
    changed = OmegaConf.merge(
        schema, {"functions": ["length"], "options": {"length": {"max_tokens": 4}}, "weights": [2]}
    )
    assert OmegaConf.to_object(changed) == RewardConfig(
        functions=["length"], options={"length": {"max_tokens": 4}}, weights=[2.0]
    )
    with pytest.raises(InputError, match=r"reward.timeout_s is -1.0"):
        OmegaConf.to_object(OmegaConf.merge(schema, {"timeout_s": -1}))

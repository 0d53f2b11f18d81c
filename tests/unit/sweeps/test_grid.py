"""Members of a sweep and their names."""

import itertools
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from hydra import initialize_config_dir
from hydra.errors import HydraException

from rlhf.sweeps.grid import MAX_NAME, by_key, grid, member_name, parse
from rlhf.sweeps.record import Member
from rlhf.types import InputError

CONF = Path(__file__).parents[3] / "conf"


@pytest.fixture(autouse=True, scope="module")
def conf() -> Iterator[None]:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        yield


def grid_of(*overrides: str) -> list[Member]:
    return grid(by_key(parse(overrides)))


def names(*overrides: str) -> list[str]:
    return [member.name for member in grid_of(*overrides)]


def test_members_are_the_product_and_are_named_by_what_is_swept_alone():
    members = grid_of("output=x", "algorithm.clip_low=0.1,0.2", "seed=3", "algorithm.kl_coef=0.0,0.1")
    assert [member.name for member in members] == [
        "algorithm.clip_low-0.1__algorithm.kl_coef-0.0",
        "algorithm.clip_low-0.1__algorithm.kl_coef-0.1",
        "algorithm.clip_low-0.2__algorithm.kl_coef-0.0",
        "algorithm.clip_low-0.2__algorithm.kl_coef-0.1",
    ]
    assert members[1].overrides == ("output=x", "algorithm.clip_low=0.1", "seed=3", "algorithm.kl_coef=0.1")
    assert members[1].swept == {"algorithm.clip_low": "0.1", "algorithm.kl_coef": "0.1"}


def test_names_are_the_same_in_any_order():
    swept = ["seed=1,2", "algorithm.clip_low=0.1,0.2", "optimizer.lr=1e-3,1e-4"]
    expected = set(names(*swept))
    assert len(expected) == 8
    assert all(set(names("output=x", *order)) == expected for order in itertools.permutations(swept))


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("optimizer.lr=1e-3,0.0010", ["optimizer.lr-0.001"] * 2),
        ("seed=range(1,4)", ["seed-1", "seed-2", "seed-3"]),
        ("seed=choice(7,8)", ["seed-7", "seed-8"]),
        ("reward=glob(math*)", ["reward-math_verify", "reward-math_with_format"]),
        ("stop_at_reward=null,0.5", ["stop_at_reward-null", "stop_at_reward-0.5"]),
        ("+extra=1,2", ["+extra-1", "+extra-2"]),
    ],
)
def test_hydra_grammar_is_understood(override, expected):
    assert names(override) == expected


@pytest.mark.parametrize(
    "override",
    ["model=/models/a,/models/b", "reward.functions=[exact],[numeric]", "model='a b','a,b'", "model='多','少'",
     f"model={'a' * 200},{'a' * 200}b"],
)  # fmt: skip
def test_names_are_safe_and_keep_members_apart(override):
    found = names(override, "seed=1,2")
    assert len(set(found)) == 4
    assert all(re.fullmatch(r"[\w.+-]+", name, re.ASCII) and len(name) <= MAX_NAME + 9 for name in found)


def test_the_name_is_the_same_tomorrow():
    assert member_name({"model": "/models/a"}) == "model--models-a-d88c727e"


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["seed=1"], "nothing is swept: give a key several values"),
        (["output=a,b"], "output: it cannot be swept"),
        (["optimizer.lr=interval(0,1)"], "optimizer.lr=interval(0,1): an interval has too many values"),
    ],
)
def test_what_is_no_sweep_is_told(overrides, sentence):
    with pytest.raises(InputError, match=re.escape(sentence)):
        grid_of(*overrides)


def test_what_hydra_cannot_read_is_hydras_to_tell():
    with pytest.raises(HydraException, match="seed="):
        grid_of("seed=1,,2")

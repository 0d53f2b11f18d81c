"""Spaces in Hydra's grammar."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from hydra import initialize_config_dir

from rlhf.sweeps.grid import by_key, parse
from rlhf.sweeps.space import Choices, Numbers, Space, space_of
from rlhf.types import InputError

CONF = Path(__file__).parents[3] / "conf"


@pytest.fixture(autouse=True, scope="module")
def conf() -> Iterator[None]:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        yield


def space(*overrides: str) -> Space:
    return space_of(by_key(parse(overrides)))


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("seed=interval(1,3)", Numbers(low=1.0, high=3.0)),
        ("seed=int(interval(1,3))", Numbers(low=1, high=3, step=1)),
        ("seed=tag(log,interval(1e-6,1e-4))", Numbers(low=1e-6, high=1e-4, log=True)),
        ("seed=tag(log,int(interval(1,64)))", Numbers(low=1, high=64, step=1, log=True)),
        ("seed=range(8,33,8)", Numbers(low=8, high=32, step=8)),
        ("seed=range(0.5,0.0,-0.25)", Numbers(low=0.25, high=0.5, step=0.25)),
        ("seed=range(3,4)", Choices(values=("3",))),
        ("seed=choice(a,7,'b c')", Choices(values=("a", "7", "b\\ c"))),
        ("seed=1e-3,0.001,2", Choices(values=("0.001", "2"))),
        ("reward=glob(math*)", Choices(values=("math_verify", "math_with_format"))),
    ],
)
def test_hydra_grammar_is_understood(override, expected):
    (found,) = space("output=x", override).values()
    assert found == expected
    assert [type(getattr(found, "low", None))] == [type(getattr(expected, "low", None))]


def test_numbers_are_short_texts_inside_their_ends():
    numbers = Numbers(low=0.123456, high=0.3)
    assert [numbers.text(value) for value in (0.123456, 0.2, 0.29999999)] == ["0.1235", "0.2", "0.3"]
    assert Numbers(low=0.123449, high=0.3).corners[0] == "0.123449"
    assert Numbers(low=1.0, high=3.0).corners == ("1.0", "3.0")
    assert Numbers(low=1e-6, high=1e-4).text(3.14159e-5) == "3.142e-05"
    assert Numbers(low=8, high=32, step=8).middle == "16"
    assert Numbers(low=8, high=32, step=8).num_values == 4


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("seed=3", "nothing is swept"),
        ("output=a,b", "output: it cannot be swept"),
        ("optimizer.lr=interval(1,1)", "optimizer.lr=interval(1,1): the first end of an interval must be below the"),
        ("optimizer.lr=tag(log,interval(0,1))", "a logarithmic interval must begin above 0"),
        ("optimizer.lr=tag(normal,interval(0,1))", "tag normal is unknown here; intervals alone take one, log"),
        ("optimizer.lr=tag(log,choice(1,2))", "tag log is unknown here; intervals alone take one, log"),
    ],
)
def test_a_space_that_cannot_be_searched_is_refused(override, sentence):
    with pytest.raises(InputError, match=re.escape(sentence)):
        space(override)

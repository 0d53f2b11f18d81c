"""The order of prompts: of one set as it always was, of several in proportion to their weights."""

from collections import Counter

import numpy as np
import pytest

from rlhf.data.order import PromptOrder
from rlhf.types import Prompt


def prompts(num_prompts: int, data_set: str = "") -> list[Prompt]:
    return [
        Prompt(id=f"{data_set}{i}", messages=[], token_ids=(), source="", meta={}, data_set=data_set)
        for i in range(num_prompts)
    ]


def test_every_epoch_asks_every_prompt_once_in_its_own_order():
    order = PromptOrder(prompts(50), seed=3)
    asked = [order.prompt_at(position) for position in range(150)]
    assert [epoch for epoch, _ in asked] == [position // 50 for position in range(150)]
    epochs = [[prompt.id for _, prompt in asked[start : start + 50]] for start in (0, 50, 100)]
    assert all(sorted(epoch, key=int) == [str(i) for i in range(50)] for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3


def test_the_order_depends_on_position_and_seed_alone():
    order = PromptOrder(prompts(50), seed=3)
    forwards = [order.prompt_at(position) for position in range(400)]
    backwards = [PromptOrder(prompts(50), seed=3).prompt_at(position) for position in reversed(range(400))]
    assert forwards == backwards[::-1]
    assert [PromptOrder(prompts(50), seed=4).prompt_at(position) for position in range(50)] != forwards[:50]


def test_one_set_is_asked_in_the_order_of_numpys_permutations():
    """Runs of earlier versions continue in the order they began with."""
    order = PromptOrder(prompts(7), seed=11)
    for epoch in range(3):
        expected = np.random.Generator(np.random.PCG64([11, epoch])).permutation(7)
        assert [int(order.prompt_at(7 * epoch + i)[1].id) for i in range(7)] == expected.tolist()


WEIGHTS = [{"a": 1.0, "b": 1.0}, {"a": 5.0, "b": 1.0, "c": 2.5}, {"a": 0.001, "b": 1.0}, {"a": 3.0}]


@pytest.mark.parametrize("weights", WEIGHTS)
def test_every_stretch_has_each_sets_share(weights):
    everything = [prompt for name in weights for prompt in prompts(9, name)]
    order = PromptOrder(everything, 3, weights)
    names = [order.prompt_at(position)[1].data_set for position in range(3000)]
    total = sum(weights.values())
    for start, length in ((0, 3000), (0, 10), (517, 64), (1000, 1000)):
        counts = Counter(names[start : start + length])
        for name, weight in weights.items():
            assert abs(counts[name] - length * weight / total) <= 2, (start, length, name)


def test_each_set_has_epochs_and_an_order_of_its_own_whatever_the_others_are():
    weights = {"a": 2.0, "b": 1.0}
    order = PromptOrder([*prompts(4, "a"), *prompts(4, "b")], 3, weights)
    asked = [order.prompt_at(position) for position in range(24)]
    of_a = [(epoch, prompt.id) for epoch, prompt in asked if prompt.data_set == "a"]
    of_b = [(epoch, prompt.id) for epoch, prompt in asked if prompt.data_set == "b"]
    assert [epoch for epoch, _ in of_a] == [0] * 4 + [1] * 4 + [2] * 4 + [3] * 4
    assert [epoch for epoch, _ in of_b] == [0] * 4 + [1] * 4
    assert all(len(set(of_a[start : start + 4])) == 4 for start in range(0, 16, 4))
    alone = PromptOrder(prompts(4, "a"), 3, {"a": 1.0})
    assert of_a == [(epoch, prompt.id) for epoch, prompt in map(alone.prompt_at, range(16))]
    assert [id[1:] for _, id in of_a[:8]] != [id[1:] for _, id in of_b[:8]]


def test_a_mix_depends_on_position_and_seed_alone():
    weights = {"a": 2.0, "b": 1.0}
    everything = [*prompts(4, "a"), *prompts(3, "b")]
    forwards = [PromptOrder(everything, 3, weights).prompt_at(position) for position in range(60)]
    order = PromptOrder(everything[::-1], 3, weights)
    assert forwards != [order.prompt_at(position) for position in range(60)], "prompts are counted in their order"
    order = PromptOrder(everything, 3, weights)
    assert forwards == [order.prompt_at(position) for position in reversed(range(60))][::-1]

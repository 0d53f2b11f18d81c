"""Likelihood and form of texts, in closed form."""

import math

import numpy as np
import pytest

from rlhf.evaluation.items import Answer
from rlhf.evaluation.metrics.shape import BitsPerByte, Length, Perplexity, Repetition, Truncation
from rlhf.evaluation.text import Language
from rlhf.types import InputError
from tests.unit.evaluation.metrics.examples import choice, figure, item, texts


def scored(index: int, *pairs: tuple[float, int]) -> Answer:
    return Answer(item=str(index), choices=tuple(choice(*pair) for pair in pairs))


def test_perplexity_of_a_uniform_model_is_its_vocabulary():
    items = [item(0, choices=("abcd",)), item(1, choices=("天地",)), item(2, choices=("x",))]
    answers = [scored(0, (-2 * math.log(50), 2)), scored(1, (-6 * math.log(50), 6)), Answer(item="2", stop="timeout")]
    assert figure(Perplexity(), items, answers) == pytest.approx(50)
    # 8 tokens of log2(50) bits over 4 + 6 bytes.
    assert figure(BitsPerByte(), items, answers) == pytest.approx(8 * math.log2(50) / 10)


def test_texts_are_weighted_by_their_tokens():
    items = [item(0, choices=("a",)), item(1, choices=("b",))]
    assert figure(Perplexity(), items, [scored(0, (-1.0, 1)), scored(1, (-9.0, 3))]) == pytest.approx(math.exp(2.5))
    assert figure(Perplexity(), items, [scored(0, (-1e6, 1)), scored(1, (-1e6, 1))]) == math.inf


def test_an_item_with_choices_has_the_likelihood_of_its_right_one():
    answers = [scored(0, (-5.0, 1), (-2.0, 1))]
    assert figure(Perplexity(), [item(choices=("a", "b"), right=(1,))], answers) == pytest.approx(math.exp(2))
    with pytest.raises(InputError, match=r"suite.jsonl:1: item '0' has 2 choices and marks none"):
        Perplexity().statistics([item(choices=("a", "b"))], answers)


def test_length_and_truncation():
    answers = [
        Answer(item="0", text="a", stop="stop", num_tokens=3),
        Answer(item="1", text="b", stop="length", num_tokens=8),
        Answer(item="2", stop="timeout"),
    ]
    items = [item(index) for index in range(3)]
    assert figure(Length(), items, answers) == 5.5
    assert figure(Truncation(), items, answers) == 0.5


def test_repetition_counts_four_grams():
    # Five 4-grams of "a b a b a b a b": two distinct. Eight characters of Chinese alike.
    for language, text in ((Language.en, "a b a b a b a b"), (Language.zh, "天地天地天地天地")):
        assert figure(Repetition(language=language), [item()], texts(text)) == pytest.approx(1 - 2 / 5)
    np.testing.assert_array_equal(Repetition().values([item(), item()], texts("a b c", "")), [0, np.nan])

"""Multiple choice by likelihood and by letter."""

import numpy as np
import pytest

from rlhf.evaluation.items import Answer
from rlhf.evaluation.metrics.choice import (
    ChoiceAccuracy,
    ChoiceAccuracyPerCharacter,
    LetterAccuracy,
    TruthfulMC1,
    TruthfulMC2,
    find_letters,
)
from rlhf.types import InputError
from tests.unit.evaluation.metrics.examples import figure, item, likelihoods, texts

CHOICES = ("ab", "abcdefgh", "好的")


def test_the_likeliest_choice_by_sum_and_by_character():
    # By sum: -2, -3, -2.5; by character (2, 8, 2 of them): -1, -3/8, -1.25.
    items = [item(0, choices=CHOICES, right=(0,)), item(1, choices=CHOICES, right=(1, 2))]
    answers = likelihoods([-2, -3, -2.5], [-2, -3, -2.5])
    np.testing.assert_array_equal(ChoiceAccuracy().values(items, answers), [1, 0])
    np.testing.assert_array_equal(ChoiceAccuracyPerCharacter().values(items, answers), [0, 1])
    assert figure(ChoiceAccuracy(), items, answers) == 0.5


def test_truthful_qa_masses():
    # Lin et al. 2022: MC1 asks for the best answer above all wrong ones, MC2 for the mass of the right ones.
    items = [item(i, choices=("a", "b", "c", "d"), right=(0, 2)) for i in range(3)]
    logs = np.log([[0.2, 0.1, 0.4, 0.3], [0.4, 0.1, 0.2, 0.3], [0.02, 0.01, 0.04, 0.03]])
    answers = likelihoods(*logs - 1000)  # far below the smallest float once exponentiated
    np.testing.assert_array_equal(TruthfulMC1().values(items, answers), [0, 1, 0])
    np.testing.assert_allclose(TruthfulMC2().values(items, answers), [0.6, 0.6, 0.6])
    assert figure(TruthfulMC1(), items, answers) == pytest.approx(1 / 3)


@pytest.mark.parametrize("metric", [ChoiceAccuracy(), ChoiceAccuracyPerCharacter(), TruthfulMC1(), TruthfulMC2()])
def test_an_answer_without_likelihoods_does_not_count(metric):
    items = [item(i, choices=CHOICES, right=(0,)) for i in range(2)]
    answers = [Answer(item="0", stop="timeout"), *likelihoods([-1, -50, -50])]
    assert figure(metric, items, answers) == pytest.approx(1, abs=1e-6)
    with pytest.raises(InputError, match=r"suite.jsonl:1: .* has no choices"):
        metric.values([item()], answers[:1])
    with pytest.raises(InputError, match=r"suite.jsonl:1: .* marks no choice as right"):
        metric.values([item(choices=CHOICES)], likelihoods([-1, -1, -1]))
    with pytest.raises(InputError, match=r"suite.jsonl:1: .* has 3 choices, and its right ones are 3"):
        metric.values([item(choices=CHOICES, right=(3,))], likelihoods([-1, -1, -1]))


@pytest.mark.parametrize(
    ("text", "letters"),
    [
        ("B", "B"),
        ("(C)", "C"),
        ("B. Paris is the capital.", "B"),
        ("D、以上都对", "D"),
        ("The answer is (B).", "B"),
        ("The best answer is: **A**", "A"),
        ("Answer: d is wrong, so the correct option is C", "C"),
        ("A careful reading shows that the answer is C.", "C"),
        ("I think so. The answer is B because A is false.", "B"),
        ("The answer is a dog, the answer is A dog.", ""),
        (r"So \boxed{B}", "B"),
        (r"\boxed{\text{(D)}}", "D"),
        ("Final answer: A or maybe not... On reflection, the answer is D", "D"),
        ("答案是B", "B"),
        ("答案：Ｃ。", "C"),
        ("正确答案为（A）", "A"),
        ("综上，故选D。", "D"),
        ("应该选择A，因为它正确", "A"),
        ("不选A，选B", "B"),
        ("不应选A", ""),
        ("选项B正确，所以本题答案选B", "B"),
        ("A和B都有道理", ""),
        ("Only (C) fits the text.", "C"),
        ("Either (C) or (D).", ""),
        ("It is paris", "B"),
        ("I do not know", ""),
        ("The answer is Z", ""),
        ("", ""),
        ("<B>", ""),
    ],
)
def test_the_letter_of_an_answer(text, letters):
    assert "".join(sorted(find_letters(text, ("Rome", "Paris", "Bonn", "Oslo")))) == letters


@pytest.mark.parametrize(
    ("text", "letters"),
    [
        ("ACD", "ACD"),
        ("The answers are A, C and D.", "ACD"),
        ("答案：A、C、D", "ACD"),
        ("选ACD。", "ACD"),
        (r"\boxed{A,C}", "AC"),
        ("答案是A和B", "AB"),
        ("(A), (B)", "AB"),
        ("ABE", ""),
    ],
)
def test_the_letters_of_an_answer_with_several(text, letters):
    assert "".join(sorted(find_letters(text, ("一", "二", "三", "四"), several=True))) == letters


def test_letters_are_compared_as_sets():
    items = [item(i, choices=("a", "b", "c"), right=right) for i, right in enumerate([(1,), (0, 2), (0, 2)])]
    assert figure(LetterAccuracy(), items, texts("B", "CA", "A")) == pytest.approx(2 / 3)
    assert figure(LetterAccuracy(), [item(right=(1,))], texts("答案是B")) == 1

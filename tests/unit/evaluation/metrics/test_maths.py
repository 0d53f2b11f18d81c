"""Final answers of mathematics, in the forms of GSM8K, MATH and AIME and in Chinese."""

import pytest

from rlhf.evaluation.metrics.maths import MathAccuracy
from rlhf.types import InputError
from tests.unit.evaluation.metrics.examples import figure, referenced, texts

RIGHT = [
    ("She sold 48/2 = <<48/2=24>>24 clips.\n#### 72", "Altogether 72 clips.\n#### 72"),
    ("#### 1,000", "The answer is $1000."),
    (r"so $\boxed{\frac{1}{2}}$.", r"Thus \boxed{0.5}"),
    (r"\boxed{\frac{\pi}{2}}", r"The answer is $\pi/2$."),
    ("204", r"Hence $m+n = \boxed{204}$."),
    ("72", "所以一共有 48+24=72。"),
    ("16", "答案是十六个苹果。"),
    ("25%", "因此，最终答案为：25%"),
]
WRONG = [("72", "#### 27"), ("72", ""), ("5", "答案是6"), (r"\boxed{x+1}", "$$$ \\frac{{{ ...")]


def test_final_answers_in_their_forms():
    items = referenced(*([reference] for reference, _ in RIGHT + WRONG))
    answers = texts(*(text for _, text in RIGHT + WRONG))
    assert MathAccuracy().values(items, answers).tolist() == [1.0] * len(RIGHT) + [0.0] * len(WRONG)


def test_one_of_several_references_suffices():
    assert (
        figure(MathAccuracy(), referenced(["3", "4"], ["3", "4"]), texts("the answer is 4", "the answer is 5")) == 0.5
    )


def test_a_reference_that_is_no_mathematics_is_refused():
    with pytest.raises(InputError, match=r"suite.jsonl:1: the reference '\\sqrt\{' of item '0' cannot be read"):
        MathAccuracy().values(referenced([r"\sqrt{"]), texts("5"))

"""Classification, against scikit-learn's values."""

import numpy as np
import pytest

from rlhf.evaluation.metrics.classification import Accuracy, MacroF1, confusion_matrix, find_label
from rlhf.types import InputError
from tests.unit.evaluation.metrics.examples import figure, item, referenced, texts

LABELS = ("neg", "neu", "pos")
ACTUAL = ["pos", "neg", "neu", "pos", "neg", "pos", "neu", "neg"]
PREDICTED = ["pos", "pos", "neu", "no idea", "neg", "pos", "neg", "neg"]
ITEMS, ANSWERS = referenced(*([each] for each in ACTUAL)), texts(*PREDICTED)


@pytest.mark.parametrize("labels", [LABELS, ()])
def test_figures_equal_scikit_learn(labels):
    # scikit-learn 1.9.1: f1_score(labels=LABELS, average="macro"), accuracy_score, confusion_matrix.
    assert figure(MacroF1(labels=labels), ITEMS, ANSWERS) == pytest.approx(2 / 3)
    assert figure(Accuracy(labels=labels), ITEMS, ANSWERS) == pytest.approx(0.625)
    sums = MacroF1(labels=labels).statistics(ITEMS, ANSWERS).sum(axis=0)
    np.testing.assert_array_equal(confusion_matrix(sums), [[2, 0, 1, 0], [1, 1, 0, 0], [0, 0, 2, 1]])


def test_a_class_that_is_absent_from_a_resample_does_not_count():
    rows = MacroF1(labels=LABELS).statistics(ITEMS, ANSWERS)
    assert MacroF1().figure(rows[[0, 5]].sum(axis=0)) == 1
    assert MacroF1().figure(rows[[0, 2, 3]].sum(axis=0)) == pytest.approx((2 / 3 + 1) / 2)


def test_one_of_several_references_suffices():
    items = [item(0, references=("sport", "news")), item(1, references=("sport", "news"))]
    assert figure(MacroF1(labels=("news", "sport", "art")), items, texts("news", "art")) == pytest.approx(
        (1 + 0 + 0) / 3
    )
    assert figure(Accuracy(), items, texts("News.", "art")) == 0.5


@pytest.mark.parametrize(
    ("text", "labels", "label"),
    [
        ("Positive.", ("positive", "negative"), "positive"),
        ("The sentiment is **negative**, clearly.", ("positive", "negative"), "negative"),
        ("It is not positive but negative.", ("positive", "negative"), None),
        ("unpositive", ("positive", "negative"), None),
        ("very positive", ("positive", "very positive"), "very positive"),
        ("这条评论的情感是正面的。", ("正面", "负面"), "正面"),
        ("类别：ＡＩ", ("AI", "体育"), "AI"),
        ("属于体育类，不是娱乐", ("体育", "娱乐"), None),
        ("It is label 1", ("0", "1", "10"), "1"),
        ("10", ("0", "1", "10"), "10"),
        ("", ("a", "b"), None),
        ("anything", ("", "b"), None),
    ],
)
def test_the_label_of_a_text(text, labels, label):
    assert find_label(text, labels) == label


def test_a_reference_that_is_no_label_is_refused():
    with pytest.raises(InputError, match=r"suite.jsonl:1: .* 'pos', which is not among the labels neg"):
        MacroF1(labels=("neg",)).statistics(ITEMS, ANSWERS)
    with pytest.raises(InputError, match="201 different labels"):
        MacroF1().statistics(referenced(*([str(i)] for i in range(201))), texts(*"a" * 201))

"""Exact match and token F1, against the published scripts' values."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhf.evaluation.metrics.exact import ExactMatch, TokenF1, longest_common_run, short_answer_tokens
from rlhf.evaluation.text import Language
from rlhf.types import InputError
from tests.unit.evaluation.metrics.examples import figure, item, referenced, texts

# Values of SQuAD's evaluation script 2.0, as in evaluate's metrics/squad_v2.
SQUAD = [
    ("The Denver Broncos!", ("Denver Broncos", "the Broncos"), 1, 1.0),
    ("in 2015", ("2015", "February 7, 2016"), 0, 2 / 3),
    ("It was Saint Bernadette Soubirous, a girl.", ("Saint Bernadette Soubirous",), 0, 2 / 3),
    ("an apple a day", ("apples",), 0, 0.0),
    ("", ("gold",), 0, 0.0),
    ("state-of-the-art U.S. methods", ("state of the art US methods", "stateoftheart US methods"), 1, 1.0),
    ("gold  gold gold", ("Gold gold",), 0, 0.8),
    ("$1,000", ("1000",), 1, 1.0),
]
# Values of CMRC 2018's evaluation script v6; NLTK 3.10.4 splits its English.
CMRC = [
    ("1963年", ("1963年", "1963"), 1, 1.0),
    ("光荣和ω-force开发的", ("光荣和ω-force", "光荣"), 0, 8 / 11),
    ("于2006年9月23日。", ("2006年9月23日",), 0, 12 / 13),
    ("村雨城，以及战国", ("村雨城", "村雨城和战国"), 0, 0.6),
    ("苹果公司推出的iPhone 手机", ("iPhone手机",), 0, 6 / 13),
    ("不知道", ("北京",), 0, 0.0),
    ("《战国无双3》是ω-force开发的", ("《战国无双3》",), 0, 2 / 3),
    ("北京大学 Peking University", ("北大（Peking University）", "peking university"), 0, 0.5),
]


@pytest.mark.parametrize(("language", "cases"), [(Language.en, SQUAD), (Language.zh, CMRC)])
def test_values_equal_the_published_scripts(language, cases):
    items, answers = referenced(*(case[1] for case in cases)), texts(*(case[0] for case in cases))
    np.testing.assert_allclose(ExactMatch(language=language).values(items, answers), [case[2] for case in cases])
    np.testing.assert_allclose(TokenF1(language=language).values(items, answers), [case[3] for case in cases])
    assert figure(TokenF1(language=language), items, answers) == pytest.approx(np.mean([case[3] for case in cases]))


def test_chinese_ignores_width_and_punctuation():
    items, answers = (
        referenced(["价格是５０％！"], ["3.5万元"], ["3.5万元"]),
        texts("价格,是50%", "３．５万元。", "35万元"),
    )
    np.testing.assert_array_equal(ExactMatch(language=Language.zh).values(items, answers), [1, 1, 0])


@pytest.mark.parametrize("language", Language)
def test_two_empty_texts_agree(language):
    assert figure(TokenF1(language=language), referenced([".,"]), texts("")) == 1
    assert figure(TokenF1(language=language), referenced(["好 good"]), texts("")) == 0


def test_thinking_is_no_part_of_the_answer():
    assert figure(ExactMatch(), referenced(["Paris"]), texts("<think>London?</think>\nParis.")) == 1


@given(st.text("ab天", max_size=12), st.text("ab天", max_size=12))
def test_the_longest_common_run_equals_brute_force(first, second):
    runs = {first[i:j] for i in range(len(first)) for j in range(i + 1, len(first) + 1)}
    assert longest_common_run(first, second) == max((len(run) for run in runs if run in second), default=0)


@given(st.text(max_size=20))
def test_any_text_has_tokens_that_agree_with_themselves(text):
    for language in Language:
        assert all(short_answer_tokens(text, language)) or not short_answer_tokens(text, language)
        assert TokenF1(language=language).values(referenced([text]), texts(text)) == 1


def test_an_item_without_references_is_refused():
    with pytest.raises(InputError, match=r"suite.jsonl:1: item '0' has no reference answer.*exact match"):
        ExactMatch().values([item()], texts("a"))

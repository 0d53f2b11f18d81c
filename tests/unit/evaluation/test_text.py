"""Likeness of texts, against brute force, figures worked by hand and sacrebleu's own."""

import itertools
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlhf.evaluation.text import Language, bleu4, exact_match, longest_common_subsequence, rouge_l, tokens

words = st.lists(st.sampled_from("abc"), max_size=7)


def subsequences(items) -> set[tuple[str, ...]]:
    return {chosen for size in range(len(items) + 1) for chosen in itertools.combinations(items, size)}


@settings(max_examples=150, deadline=None)
@given(words, words)
def test_longest_common_subsequence_equals_brute_force(first, second):
    assert longest_common_subsequence(first, second) == max(map(len, subsequences(first) & subsequences(second)))


@settings(max_examples=30, deadline=None)
@given(st.text("天地人ab", min_size=60, max_size=200), st.text("天地人ab", min_size=60, max_size=200))
def test_longest_common_subsequence_of_long_texts_equals_the_table(first, second):
    table = [[0] * (len(second) + 1) for _ in range(len(first) + 1)]
    for i, a in enumerate(first):
        for j, b in enumerate(second):
            table[i + 1][j + 1] = table[i][j] + 1 if a == b else max(table[i][j + 1], table[i + 1][j])
    assert longest_common_subsequence(first, second) == table[-1][-1]


def test_rouge_l_of_lins_example():
    # Lin 2004, section 3.1: S1, S2, S3; with beta = 1 precision, recall and F1 are the same for equal lengths.
    reference, second, third = "police killed the gunman", "police kill the gunman", "the gunman kill police"
    assert rouge_l([second], [reference], Language.en) == pytest.approx(75)
    assert rouge_l([third], [reference], Language.en) == pytest.approx(50)


def test_rouge_l_of_chinese_is_by_character_and_without_blanks():
    # 我喜欢苹果 is a subsequence of all five characters of the six: 2 * 5 / (5 + 6).
    assert rouge_l(["我 喜欢苹果"], ["我喜欢吃苹果"], Language.zh) == pytest.approx(100 * 10 / 11)
    assert rouge_l(["我喜欢苹果"], ["我喜欢吃苹果"], Language.en) == 0


def test_rouge_l_is_a_mean_over_texts_and_bears_empty_ones():
    assert rouge_l(["好", "", "a"], ["好", "好", ""], Language.zh) == pytest.approx(100 / 3)


def test_english_words_have_neither_case_nor_punctuation():
    assert tokens("The cat, it's \n HERE.", Language.en) == ["the", "cat", "it", "s", "here"]
    assert tokens("a 好\n。", Language.zh) == ["a", "好", "。"]


def test_bleu_of_a_case_worked_by_hand():
    # 5 of 5, 4 of 4, 3 of 3, 2 of 2 n-grams; a token short of 6: brevity penalty exp(1 - 6/5).
    assert bleu4(["the cat is right here"], ["the cat is right here ."], Language.en) == pytest.approx(
        100 * math.exp(1 - 6 / 5)
    )


def test_bleu_of_chinese_is_by_character():
    # 我喜欢苹果 for 我喜欢吃苹果: 5/5, 3/4, 1/3, and 0 of 2 four-grams, smoothed to 1/4.
    expected = 100 * math.exp(1 - 6 / 5) * (1 * 3 / 4 * 1 / 3 * 1 / 4) ** 0.25
    assert bleu4(["我喜欢苹果"], ["我喜欢吃苹果"], Language.zh) == pytest.approx(expected)
    assert bleu4(["今天天气很好。"], ["今天天气很好。"], Language.zh) == pytest.approx(100)
    # As words of English each of these texts is one, and that one is wrong.
    assert bleu4(["我喜欢苹果"], ["我喜欢吃苹果"], Language.en) == 0


def test_bleu_counts_over_the_corpus_not_text_by_text():
    # 4-grams: 1 of 1 and 0 of 1; the like for n = 1, 2, 3; both texts are as long as expected.
    both = bleu4(["天地人山", "鱼鱼鱼鱼"], ["天地人山", "虫虫虫虫"], Language.zh)
    assert both == pytest.approx(50)


def test_lists_of_different_length_are_refused():
    for measure in (lambda a, b: bleu4(a, b, Language.zh), lambda a, b: rouge_l(a, b, Language.zh), exact_match):
        for lists in ((["好", "好"], ["好"]), (["好"], ["好", "好"])):
            with pytest.raises((ValueError, AssertionError)):
                measure(*lists)


def test_exact_match_ignores_blanks_around():
    assert exact_match(["42", " 42\n", "4 2", "43"], ["42", "42", "42", "42"]) == 0.5

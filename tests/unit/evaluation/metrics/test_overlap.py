"""BLEU, chrF and ROUGE against sacrebleu and rouge-score."""

import numpy as np
import pytest
import sacrebleu
from hypothesis import given, settings
from hypothesis import strategies as st

from rlhf.evaluation.metrics.overlap import Bleu, ChrF, Rouge1, Rouge2, RougeL
from rlhf.evaluation.text import BLEU_TOKENIZERS, Language, rouge_l
from rlhf.types import InputError
from tests.unit.evaluation.metrics.examples import figure, item, referenced, texts

CORPORA = {
    Language.en: (
        ["The dog bit the man.", "It wasn't surprising.", "The man had just bitten him.", ""],
        [("The dog bit the man.", "The dog had bit the man."), ("It was not unexpected.", "No one was surprised."),
         ("The man bit him first.", "The man had bitten the dog."), ("Nothing.", "Naught")],
    ),
    Language.zh: (
        ["今天天气很好，我们去公园吧。", "他喜欢 iPhone 手机", "不知道"],
        [("今天天气真好，我们去公园玩。", "天气不错，去公园吧。"),
         ("他爱用iPhone手机。", "手机"), ("我也不知道", "谁知道")],
    ),
}  # fmt: skip


@pytest.mark.parametrize("language", Language)
def test_corpus_figures_equal_sacrebleu(language):
    hypotheses, references = CORPORA[language]
    streams = [list(stream) for stream in zip(*references, strict=True)]
    items, answers = referenced(*references), texts(*hypotheses)
    expected = sacrebleu.corpus_bleu(hypotheses, streams, tokenize=BLEU_TOKENIZERS[language]).score
    assert figure(Bleu(language=language), items, answers) == pytest.approx(expected)
    assert figure(ChrF(), items, answers) == pytest.approx(sacrebleu.corpus_chrf(hypotheses, streams).score)


pieces = st.lists(st.text("abc 天地.", max_size=12), min_size=1, max_size=4)


@settings(max_examples=150)
@given(pieces, st.data())
def test_any_corpus_agrees_with_sacrebleu(hypotheses, data):
    hypotheses = [text.strip() for text in hypotheses]
    references = [data.draw(st.text("abc 天地.", max_size=12)) for _ in hypotheses]
    items, answers = referenced(*([each] for each in references)), texts(*hypotheses)
    for language in Language:
        expected = sacrebleu.corpus_bleu(hypotheses, [references], tokenize=BLEU_TOKENIZERS[language]).score
        assert figure(Bleu(language=language), items, answers) == pytest.approx(expected, abs=1e-9)
    assert figure(ChrF(), items, answers) == pytest.approx(sacrebleu.corpus_chrf(hypotheses, [references]).score)


def test_a_resample_is_the_corpus_of_its_sentences():
    hypotheses, references = CORPORA[Language.en]
    drawn = np.array([0, 0, 2, 1, 2])
    counts = np.bincount(drawn, minlength=len(hypotheses))
    streams = [[references[i][k] for i in drawn] for k in range(2)]
    for metric, score in ((Bleu(), sacrebleu.corpus_bleu), (ChrF(), sacrebleu.corpus_chrf)):
        rows = metric.statistics(referenced(*references), texts(*hypotheses))
        assert metric.figure(counts @ rows) == pytest.approx(score([hypotheses[i] for i in drawn], streams).score)


# rouge-score 0.1.2, use_stemmer=False: F-measures of rouge1, rouge2 and rougeL.
ROUGE = [
    ("The cat's 2 hats were on the mat.", ["the cats had two hats on a mat"], 8 / 17, 0.0, 8 / 17),
    ("Police killed the gunman", ["police kill the gunman"], 3 / 4, 1 / 3, 3 / 4),
    ("state-of-the-art naïve results", ["State of the art, naive results!"], 10 / 13, 6 / 11, 10 / 13),
    ("", ["reference"], 0.0, 0.0, 0.0),
    ("one two three four five six", ["six five four three two one"], 1.0, 0.0, 1 / 6),
    ("a cat sat on the mat", ["the cat sat", "a cat was sitting on the mat"], 10 / 13, 6 / 11, 10 / 13),
]


def test_rouge_equals_rouge_score():
    items, answers = referenced(*(case[1] for case in ROUGE)), texts(*(case[0] for case in ROUGE))
    for column, metric in enumerate((Rouge1(), Rouge2(), RougeL()), start=2):
        np.testing.assert_allclose(metric.values(items, answers), [100 * case[column] for case in ROUGE])
        assert figure(metric, items, answers) == pytest.approx(100 * np.mean([case[column] for case in ROUGE]))


def test_rouge_of_chinese_counts_characters():
    items, answers = referenced(["我喜欢吃苹果"]), texts("我 喜欢苹果")
    assert figure(Rouge1(language=Language.zh), items, answers) == pytest.approx(1000 / 11)
    assert figure(Rouge2(language=Language.zh), items, answers) == pytest.approx(100 * 2 * 3 / 9)
    assert figure(RougeL(language=Language.zh), items, answers) == pytest.approx(
        rouge_l(["我 喜欢苹果"], ["我喜欢吃苹果"], Language.zh)
    )
    assert figure(Rouge1(), items, answers) == 0


@pytest.mark.parametrize("metric", [Bleu(), ChrF(), Rouge2()])
def test_an_item_without_references_is_refused(metric):
    with pytest.raises(InputError, match=r"suite.jsonl:1: item '0' has no reference answer"):
        metric.statistics([item()], texts("a"))

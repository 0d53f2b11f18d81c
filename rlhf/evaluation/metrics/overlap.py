"""Overlap of generated texts with references: corpus BLEU, chrF and ROUGE, from 0 to 100."""

from __future__ import annotations

import re
from abc import abstractmethod
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from rlhf.evaluation.items import Answer, Item
from rlhf.evaluation.metrics.base import MeanMetric, Metric, ratio
from rlhf.evaluation.metrics.requirements import final_text, references
from rlhf.evaluation.text import BLEU_TOKENIZERS, Language, subsequence_f1, tokens

CHRF_ORDER, CHRF_BETA = 6, 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Bleu(Metric):
    """BLEU of the whole corpus with n-grams up to 4 and exponential smoothing (Papineni et al. 2002; sacrebleu, Post
    2018). The statistics after the first column are sacrebleu's counts: length of the answer and of the closest
    reference, right n-grams, n-grams."""

    bounds: ClassVar[tuple[float, float] | None] = (0.0, 100.0)
    language: Language = Language.en
    """Tokens: `en` as sacrebleu's 13a, `zh` as its zh, in which a Chinese character is a token."""

    def statistics(self, items: Sequence[Item], answers: Sequence[Answer]) -> np.ndarray:
        from sacrebleu.metrics.bleu import BLEU

        # Effective order matters to the sentence's score only, which is not read: it silences a warning.
        bleu = BLEU(tokenize=BLEU_TOKENIZERS[self.language], effective_order=True)
        rows = np.ones((len(items), 11))
        for row, item, answer in zip(rows, items, answers, strict=True):
            score = bleu.sentence_score(final_text(answer), list(references(item, "BLEU")))
            row[1:] = [score.sys_len, score.ref_len, *score.counts, *score.totals]
        return rows

    def figure(self, sums: np.ndarray) -> np.ndarray:
        length, expected = sums[..., 1], sums[..., 2]
        right, total = sums[..., 3:7], sums[..., 7:11]
        # Each order without a right n-gram, in turn, counts as 1/2, 1/4, ... of one.
        missing = (right == 0) & (total > 0)
        right = np.where(missing, 0.5 ** np.cumsum(missing, axis=-1), right)
        scored = (total > 0).all(axis=-1) & (sums[..., 3:7] > 0).any(axis=-1)
        precisions = np.where(total > 0, right, 1.0) / np.where(total > 0, total, 1.0)
        brevity = np.minimum(0.0, 1 - expected / np.where(length > 0, length, 1.0))
        score = 100 * np.exp(brevity + np.log(precisions).mean(axis=-1))
        return np.where(sums[..., 0] > 0, np.where(scored, score, 0.0), np.nan)


@dataclass(frozen=True, slots=True, kw_only=True)
class ChrF(Metric):
    """F2 of character n-grams up to 6 without white space, over the whole corpus (Popović 2015; sacrebleu's `chrF2`).

    The statistics after the first column are, by order, the answer's n-grams, the reference's, and those in both, for
    the reference with the best score.
    """

    bounds: ClassVar[tuple[float, float] | None] = (0.0, 100.0)

    def statistics(self, items: Sequence[Item], answers: Sequence[Answer]) -> np.ndarray:
        rows = np.ones((len(items), 1 + 3 * CHRF_ORDER))
        for row, item, answer in zip(rows, items, answers, strict=True):
            own = _character_ngrams(final_text(answer))
            options = np.array([_matches(own, _character_ngrams(each)) for each in references(item, "chrF")])
            row[1:] = options[int(np.argmax(_chrf(options)))]
        return rows

    def figure(self, sums: np.ndarray) -> np.ndarray:
        return np.where(sums[..., 0] > 0, _chrf(sums[..., 1:]), np.nan)


def _character_ngrams(text: str) -> list[Counter[str]]:
    text = "".join(text.split())
    return [Counter(text[i : i + n] for i in range(len(text) - n + 1)) for n in range(1, CHRF_ORDER + 1)]


def _matches(answer: list[Counter[str]], reference: list[Counter[str]]) -> list[int]:
    counts: list[int] = []
    for own, other in zip(answer, reference, strict=True):
        # As in sacrebleu, n-grams of an order that the reference lacks do not count.
        counts += [own.total() if other else 0, other.total(), (own & other).total()]
    return counts


def _chrf(counts: np.ndarray) -> np.ndarray:  # [..., 3 * orders] -> [...]
    own, other, both = (counts[..., i::3] for i in range(3))
    orders = ((own > 0) & (other > 0)).sum(axis=-1)
    used = np.maximum(orders, 1)
    precision = np.where(own * other > 0, both / np.maximum(own, 1), 0.0).sum(axis=-1) / used
    recall = np.where(own * other > 0, both / np.maximum(other, 1), 0.0).sum(axis=-1) / used
    weight = CHRF_BETA**2
    return 100 * np.nan_to_num(ratio((1 + weight) * precision * recall, weight * precision + recall))


@dataclass(frozen=True, slots=True, kw_only=True)
class Rouge(MeanMetric):
    """Mean F1 of ROUGE (Lin 2004), for the reference with the best one. Subclasses count the units in common.

    English tokens are those of rouge-score without stemming; Chinese ones are characters without blanks.
    """

    bounds: ClassVar[tuple[float, float] | None] = (0.0, 100.0)
    language: Language = Language.en
    """Unit: words of `en`, characters of `zh`."""

    def values(self, items: Sequence[Item], answers: Sequence[Answer]) -> np.ndarray:
        values = []
        for item, answer in zip(items, answers, strict=True):
            own = rouge_tokens(final_text(answer), self.language)
            others = [rouge_tokens(each, self.language) for each in references(item, "ROUGE")]
            values.append(100 * max(self._f1(own, other) for other in others))
        return np.array(values, dtype=np.float64)

    @abstractmethod
    def _f1(self, answer: list[str], reference: list[str]) -> float: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Rouge1(Rouge):
    """Mean F1 of tokens."""

    def _f1(self, answer: list[str], reference: list[str]) -> float:
        return _ngram_f1(answer, reference, 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rouge2(Rouge):
    """Mean F1 of pairs of consecutive tokens; 0 for a text of one token."""

    def _f1(self, answer: list[str], reference: list[str]) -> float:
        return _ngram_f1(answer, reference, 2)


@dataclass(frozen=True, slots=True, kw_only=True)
class RougeL(Rouge):
    """Mean F1 of the longest common subsequence of tokens, over the whole text as one sentence."""

    def _f1(self, answer: list[str], reference: list[str]) -> float:
        return subsequence_f1(answer, reference)


def rouge_tokens(text: str, language: Language) -> list[str]:
    """Return the tokens of ROUGE: runs of lower-case ASCII letters and digits, or characters of Chinese."""
    return tokens(text, language) if language is Language.zh else re.findall(r"[a-z0-9]+", text.lower())


def _ngram_f1(answer: list[str], reference: list[str], n: int) -> float:
    own, other = (Counter(zip(*(each[i:] for i in range(n)), strict=False)) for each in (answer, reference))
    common = (own & other).total()
    return 2 * common / (own.total() + other.total()) if common else 0.0

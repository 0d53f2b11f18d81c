"""Agreement of short answers with references: exact match and F1 over tokens.

English follows SQuAD (Rajpurkar et al. 2016 and 2018, evaluation script 2.0): lower case, without ASCII punctuation and
articles; F1 is over the multiset of words. Chinese follows CMRC 2018 (Cui et al. 2019, evaluation script v6): a token
is a character of Chinese or a word of another script; F1 is over the longest common run of tokens. Two differences from
that script: full-width forms are read as half-width ones, and punctuation is left out whatever its width, except inside
a number.
"""

from __future__ import annotations

import re
import string
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from rlhf.evaluation.items import Answer, Item
from rlhf.evaluation.metrics.base import MeanMetric
from rlhf.evaluation.metrics.requirements import final_text, references
from rlhf.evaluation.text import Language
from rlhf.rewards.text import half_width

_ARTICLES = re.compile(r"\b(?:a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)
HAN = "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U000323af"
"""Chinese characters, as ranges of a character class."""
_SEGMENT = re.compile(rf"[{HAN}]|[0-9]+(?:[.,][0-9]+)*|[^\W_{HAN}0-9]+|[^\w\s]")
_JOINING = str.maketrans("", "", "-:_*^/\\~`+=·")
"""Marks that the script removes before it splits a text, so that 12:30 and ω-force are one token each."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExactMatch(MeanMetric):
    """Share of answers that equal one of the references after normalisation."""

    bounds: ClassVar[tuple[float, float] | None] = (0.0, 1.0)
    language: Language = Language.en
    """Normalisation: `en` as SQuAD, `zh` as CMRC 2018."""

    def values(self, items: Sequence[Item], answers: Sequence[Answer]) -> np.ndarray:
        return _best(_same, items, answers, self.language, "exact match")


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenF1(MeanMetric):
    """Mean F1 of an answer's tokens and a reference's, the best one's if there are several."""

    bounds: ClassVar[tuple[float, float] | None] = (0.0, 1.0)
    language: Language = Language.en
    """Tokens: `en` as SQuAD, `zh` as CMRC 2018."""

    def values(self, items: Sequence[Item], answers: Sequence[Answer]) -> np.ndarray:
        return _best(_run_f1 if self.language is Language.zh else _bag_f1, items, answers, self.language, "token F1")


def short_answer_tokens(text: str, language: Language) -> list[str]:
    """Return the tokens of a short answer after normalisation."""
    if language is Language.zh:
        segments = _SEGMENT.findall(half_width(text).lower().translate(_JOINING))
        return [token for token in segments if not _is_punctuation(token)]
    return _ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split()


def longest_common_run(first: Sequence[str], second: Sequence[str]) -> int:
    """Return the length of the longest sequence of consecutive tokens that both have."""
    best, row = 0, [0] * (len(second) + 1)
    for token in first:
        row = [0, *(row[j] + 1 if token == other else 0 for j, other in enumerate(second))]
        best = max(best, *row)
    return best


def _is_punctuation(token: str) -> bool:
    return unicodedata.category(token[0]).startswith("P") and token not in "%‰"


def _best(
    compare: Callable[[list[str], list[str]], float],
    items: Sequence[Item],
    answers: Sequence[Answer],
    language: Language,
    metric: str,
) -> np.ndarray:  # [N]
    """Return each answer's value for the reference with the largest one."""
    values = []
    for item, answer in zip(items, answers, strict=True):
        tokens = short_answer_tokens(final_text(answer), language)
        values.append(max(compare(tokens, short_answer_tokens(each, language)) for each in references(item, metric)))
    return np.array(values, dtype=np.float64)


def _same(answer: list[str], reference: list[str]) -> float:
    return float(answer == reference)


def _bag_f1(answer: list[str], reference: list[str]) -> float:
    return _f1((Counter(answer) & Counter(reference)).total(), answer, reference)


def _run_f1(answer: list[str], reference: list[str]) -> float:
    return _f1(longest_common_run(answer, reference), answer, reference)


def _f1(common: int, answer: list[str], reference: list[str]) -> float:
    """Return 2PR / (P + R); if a text has no tokens, 1 if both have none, else 0 (SQuAD 2.0)."""
    if not answer or not reference:
        return float(answer == reference)
    return 2 * common / (len(answer) + len(reference))

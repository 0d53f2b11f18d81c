"""Similarity of texts to reference texts, in Chinese or English."""

from __future__ import annotations

import re
from collections.abc import Sequence
from enum import StrEnum


class Language(StrEnum):
    """Unit in which texts are compared: characters of Chinese, words of English."""

    zh = "zh"
    en = "en"


BLEU_TOKENIZERS = {Language.zh: "zh", Language.en: "13a"}


def bleu4(hypotheses: Sequence[str], references: Sequence[str], language: Language) -> float:
    """BLEU of the whole corpus with n-grams up to 4, from 0 to 100 (Papineni et al. 2002; sacrebleu, Post 2018).

    Zero match counts are smoothed exponentially. 0 if no hypothesis has four tokens, even if each equals its reference.
    """
    import sacrebleu

    assert len(hypotheses) == len(references)  # sacrebleu silently drops the surplus
    return sacrebleu.corpus_bleu(list(hypotheses), [list(references)], tokenize=BLEU_TOKENIZERS[language]).score


def rouge_l(hypotheses: Sequence[str], references: Sequence[str], language: Language) -> float:
    """Mean F1 of the longest common subsequence, from 0 to 100 (Lin 2004); 0 where a text has no token."""
    scores = [
        subsequence_f1(tokens(a, language), tokens(b, language)) for a, b in zip(hypotheses, references, strict=True)
    ]
    return 100 * sum(scores) / max(len(scores), 1)


def exact_match(hypotheses: Sequence[str], references: Sequence[str]) -> float:
    """Share of texts that equal their reference, except for surrounding blanks."""
    same = [a.strip() == b.strip() for a, b in zip(hypotheses, references, strict=True)]
    return sum(same) / max(len(same), 1)


def tokens(text: str, language: Language) -> list[str]:
    """Split Chinese into characters without blanks, English into lower-case words without punctuation."""
    return list("".join(text.split())) if language is Language.zh else re.findall(r"\w+", text.lower())


def longest_common_subsequence(first: Sequence[str], second: Sequence[str]) -> int:
    """Return its length. A row of the usual table is one integer, a bit per item of `first` (Hyyrö 2004)."""
    places: dict[str, int] = {}
    for i, item in enumerate(first):
        places[item] = places.get(item, 0) | 1 << i
    full = (1 << len(first)) - 1
    row = full  # zeros mark where the subsequence grows
    for item in second:
        matched = row & places.get(item, 0)
        row = (row + matched | row - matched) & full
    return len(first) - row.bit_count()


def subsequence_f1(hypothesis: Sequence[str], reference: Sequence[str]) -> float:
    """Return the F1 of the longest common subsequence (Lin 2004); 0 if a text has no token."""
    common = longest_common_subsequence(hypothesis, reference)
    return 2 * common / (len(hypothesis) + len(reference)) if common else 0.0

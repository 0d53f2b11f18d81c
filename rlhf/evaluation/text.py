"""How close texts are to what was expected, in Chinese or English."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum


class Language(StrEnum):
    """In which tokens texts are compared: characters of Chinese, words of English."""

    zh = "zh"
    en = "en"


BLEU_TOKENIZERS = {Language.zh: "zh", Language.en: "13a"}


def bleu4(hypotheses: Sequence[str], references: Sequence[str], language: Language) -> float:
    """BLEU of the whole corpus with n-grams up to 4, from 0 to 100 (Papineni et al. 2002; sacrebleu, Post 2018)."""
    import sacrebleu

    return sacrebleu.corpus_bleu(list(hypotheses), [list(references)], tokenize=BLEU_TOKENIZERS[language]).score


def rouge_l(hypotheses: Sequence[str], references: Sequence[str], language: Language) -> float:
    """Mean F1 of the longest common subsequence, from 0 to 100 (Lin 2004); 0 where a text has no token."""
    scores = [_f1(tokens(a, language), tokens(b, language)) for a, b in zip(hypotheses, references, strict=True)]
    return 100 * sum(scores) / max(len(scores), 1)


def exact_match(hypotheses: Sequence[str], references: Sequence[str]) -> float:
    """Share of texts that are as expected but for blanks around them."""
    same = [a.strip() == b.strip() for a, b in zip(hypotheses, references, strict=True)]
    return sum(same) / max(len(same), 1)


def tokens(text: str, language: Language) -> list[str]:
    """Characters without blanks of Chinese, lower-case words of English."""
    return list("".join(text.split())) if language is Language.zh else text.lower().split()


def longest_common_subsequence(first: Sequence[str], second: Sequence[str]) -> int:
    """Its length, in time of the product of the lengths."""
    lengths = [0] * (len(second) + 1)
    for item in first:
        diagonal = 0
        for j, other in enumerate(second):
            diagonal, lengths[j + 1] = (
                lengths[j + 1],
                diagonal + 1 if item == other else max(lengths[j], lengths[j + 1]),
            )
    return lengths[-1]


def _f1(hypothesis: list[str], reference: list[str]) -> float:
    common = longest_common_subsequence(hypothesis, reference)
    return 2 * common / (len(hypothesis) + len(reference)) if common else 0.0

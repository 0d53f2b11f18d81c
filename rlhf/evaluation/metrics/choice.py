"""Multiple choice, by the likelihood of the choices or by the letter in a generated answer."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from rlhf.evaluation.items import Answer, ChoiceLogprob, Item
from rlhf.evaluation.metrics.base import MeanMetric
from rlhf.evaluation.metrics.requirements import final_text, likelihoods, right_choices
from rlhf.rewards.text import boxed, half_width


@dataclass(frozen=True, slots=True, kw_only=True)
class ChoiceAccuracy(MeanMetric):
    """Share of items whose likeliest choice is right (`acc` of lm-evaluation-harness); the first of equal ones counts
    as the likeliest. NaN for an answer without likelihoods."""

    bounds: ClassVar[tuple[float, float] | None] = (0.0, 1.0)

    def values(self, items: Sequence[Item], answers: Sequence[Answer]) -> np.ndarray:
        return np.array([self._value(*pair) for pair in likelihoods(items, answers, "accuracy of choices")])

    def _value(self, item: Item, choices: tuple[ChoiceLogprob, ...] | None) -> float:
        right = right_choices(item, "accuracy of choices")
        return np.nan if choices is None else float(int(np.argmax(self._scores(item, choices))) in right)

    def _scores(self, item: Item, choices: tuple[ChoiceLogprob, ...]) -> np.ndarray:  # [number of choices]
        return np.array([choice.logprob for choice in choices])


@dataclass(frozen=True, slots=True, kw_only=True)
class ChoiceAccuracyPerCharacter(ChoiceAccuracy):
    """Share of items whose choice of the largest logprob per character of its text is right: `acc_norm` of
    lm-evaluation-harness."""

    def _scores(self, item: Item, choices: tuple[ChoiceLogprob, ...]) -> np.ndarray:
        logprobs = [choice.logprob for choice in choices]
        return np.array(logprobs) / [max(len(text), 1) for text in item.choices]


@dataclass(frozen=True, slots=True, kw_only=True)
class TruthfulMC1(MeanMetric):
    """Share of items whose best answer, the first right choice, is likelier than every wrong one (TruthfulQA MC1, Lin
    et al. 2022). NaN for an answer without likelihoods."""

    bounds: ClassVar[tuple[float, float] | None] = (0.0, 1.0)

    def values(self, items: Sequence[Item], answers: Sequence[Answer]) -> np.ndarray:
        values = []
        for item, choices in likelihoods(items, answers, "MC1"):
            right = right_choices(item, "MC1")
            logprobs = [choice.logprob for choice in choices or ()]
            wrong = [logprob for index, logprob in enumerate(logprobs) if index not in right]
            values.append(float(logprobs[right[0]] > max(wrong, default=-np.inf)) if logprobs else np.nan)
        return np.array(values)


@dataclass(frozen=True, slots=True, kw_only=True)
class TruthfulMC2(MeanMetric):
    """Mean probability of the right choices together, among all choices (TruthfulQA MC2, Lin et al. 2022). NaN for an
    answer without likelihoods."""

    bounds: ClassVar[tuple[float, float] | None] = (0.0, 1.0)

    def values(self, items: Sequence[Item], answers: Sequence[Answer]) -> np.ndarray:
        values = []
        for item, choices in likelihoods(items, answers, "MC2"):
            right = list(right_choices(item, "MC2"))
            logprobs = np.array([choice.logprob for choice in choices or ()])
            masses = np.exp(logprobs - logprobs.max()) if choices else logprobs
            values.append(masses[right].sum() / masses.sum() if choices else np.nan)
        return np.array(values)


@dataclass(frozen=True, slots=True, kw_only=True)
class LetterAccuracy(MeanMetric):
    """Share of generated answers whose letters are exactly those of the right choices; `find_letters` reads them."""

    bounds: ClassVar[tuple[float, float] | None] = (0.0, 1.0)

    def values(self, items: Sequence[Item], answers: Sequence[Answer]) -> np.ndarray:
        values = []
        for item, answer in zip(items, answers, strict=True):
            right = right_choices(item, "accuracy of letters")
            found = find_letters(final_text(answer), item.choices, several=len(right) > 1)
            values.append(found == {chr(ord("A") + index) for index in right})
        return np.array(values, dtype=np.float64)


_LIST = r"[(\[*]*[A-Z][)\]*]*(?:\s*(?:[,、/&和与及]|and\b|以及)\s*(?:and\s+)?[(\[*]*[A-Z][)\]*]*)*"
_JOINED = r"[(\[*]*[A-Z]{2,}[)\]*]*"
# A and I are words too, if a word follows that does not continue a sentence about the letter.
_END = r"(?![A-Za-z0-9'])(?!(?<=A)\s+(?!and\b|or\b|is\b|because\b|since\b|as\b)[a-z])(?!(?<=I)\s+[a-z])"
_LETTERS = rf"(?P<letters>(?:{_JOINED}|{_LIST}){_END})"
_PHRASE = re.compile(
    r"(?:(?i:\banswers?\b(?:\s+choice)?(?:\s+to\s[^.\n:]{0,60}?)?\s*(?:is|are|:|=|should\s+be|must\s+be|would\s+be)\s*:?)"
    r"|(?i:\b(?:correct|right|best)\s+(?:options?|choices?|answers?)\s*(?:is|are|:)\s*:?|\b(?:choose|select|pick)\b)"
    r"|答案\s*(?:应该|应当|就)?(?:选项?|是|为|應?為|:)*\s*:?|(?<!不)(?<!不[应该能可])(?<!不应该)选择?\s*(?:是|为|:)*\s*"
    r"|正确(?:的)?(?:选项|答案)?\s*(?:是|为|:)\s*)"
    rf"\s*(?i:(?:options?|choices?|选项|the\s+letters?)\s*:?\s*)?{_LETTERS}"
)
_BEGINNING = re.compile(rf"\s*{_LETTERS}\s*(?:[.:)、,]|$|\n|\s(?=because|since|is\b))")
_BRACKETED = re.compile(r"\(([A-Z])\)")


def find_letters(text: str, choices: Sequence[str] = (), *, several: bool = False) -> frozenset[str]:
    r"""Return the letters, A for the first choice, that an answer gives; empty if it gives none.

    They are in the last `\boxed{}`; else after the last phrase that announces an answer (`The answer is (B)`, `选B`,
    `答案是B`); else at the beginning (`B. Paris`); else the only letter in brackets; else that of the only choice
    whose text occurs. `several` also reads letters without separators, as in `ACD`. Letters without a choice are none.
    """
    # The patterns take polynomial time in the length of a run of blanks.
    text = re.sub(r"\n\s+", "\n", re.sub(r"[^\S\n]+", " ", half_width(text).replace("**", "")))
    content = boxed(text)
    if content is not None:
        inside = re.sub(r"\\(?:text|mathrm|mathbf|textbf)\s*\{([^{}]*)\}", r"\1", content)
        read = re.match(rf"\s*{_LETTERS}", inside)
        return _valid(read["letters"], choices, several) if read else _by_text(inside, choices)
    phrases = [each for each in _PHRASE.finditer(text) if _valid(each["letters"], choices, several)]
    if phrases:
        return _valid(phrases[-1]["letters"], choices, several)
    beginning = _BEGINNING.match(text)
    if beginning and _valid(beginning["letters"], choices, several):
        return _valid(beginning["letters"], choices, several)
    bracketed = {letter for letter in _BRACKETED.findall(text) if _valid(letter, choices, several)}
    return frozenset(bracketed) if len(bracketed) == 1 else _by_text(text, choices)


def _valid(written: str, choices: Sequence[str], several: bool) -> frozenset[str]:
    """Return the letters of a list; empty if one has no choice, or they stand without separators for one letter."""
    if not several and re.search(r"[A-Z]{2}", written):
        return frozenset()
    letters = frozenset(re.findall(r"[A-Z]", written))
    last = chr(ord("A") + (len(choices) or 26) - 1)
    return letters if max(letters) <= last else frozenset()


def _by_text(text: str, choices: Sequence[str]) -> frozenset[str]:
    """Return the letter of the only choice whose text occurs; a choice within a longer one that occurs is none."""
    text = " ".join(text.lower().split())
    plain = [" ".join(half_width(choice).lower().split()) for choice in choices]
    occurring = [i for i, choice in enumerate(plain) if choice and choice in text]
    outer = [i for i in occurring if not any(plain[i] != plain[j] and plain[i] in plain[j] for j in occurring)]
    return frozenset(chr(ord("A") + i) for i in outer) if len(outer) == 1 else frozenset()

"""Likelihood and outer form of texts: perplexity, bits per byte, length, truncation, repetition."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from rlhf.evaluation.items import Answer, Item
from rlhf.evaluation.metrics.base import MeanMetric, Metric, ratio
from rlhf.evaluation.metrics.requirements import likelihoods
from rlhf.evaluation.text import Language, tokens
from rlhf.ops.repetition import repetition
from rlhf.types import InputError


@dataclass(frozen=True, slots=True, kw_only=True)
class TextLikelihood(Metric):
    """Base of figures of a text's likelihood: an item's first right choice, or its only one.

    The statistics are 1, tokens, nats of surprise and UTF-8 bytes.
    """

    larger_is_better: ClassVar[bool | None] = False

    def statistics(self, items: Sequence[Item], answers: Sequence[Answer]) -> np.ndarray:
        rows = np.zeros((len(items), 4))
        for row, (item, choices) in zip(rows, likelihoods(items, answers, "perplexity"), strict=True):
            if len(item.choices) > 1 and not item.right:
                raise InputError(
                    f"{item.where}: item '{item.id}' has {len(item.choices)} choices and marks none as right: give one "
                    "text for perplexity, or the index of the right one"
                )
            index = item.right[0] if item.right else 0
            if choices is not None and choices[index].num_tokens > 0:
                row[:] = [1, choices[index].num_tokens, -choices[index].logprob, len(item.choices[index].encode())]
        return rows


@dataclass(frozen=True, slots=True, kw_only=True)
class Perplexity(TextLikelihood):
    """Perplexity per token, exp(nats / tokens) over all texts; it depends on the tokenizer, `BitsPerByte` does not."""

    bounds: ClassVar[tuple[float, float] | None] = (1.0, math.inf)

    def figure(self, sums: np.ndarray) -> np.ndarray:
        # Beyond the largest float a perplexity is infinite, which is no error.
        with np.errstate(over="ignore"):
            return np.exp(ratio(sums[..., 2], sums[..., 1]))


@dataclass(frozen=True, slots=True, kw_only=True)
class BitsPerByte(TextLikelihood):
    """Bits of surprise per UTF-8 byte over all texts (Gao et al. 2020, section 3.1), comparable between tokenizers."""

    bounds: ClassVar[tuple[float, float] | None] = (0.0, math.inf)

    def figure(self, sums: np.ndarray) -> np.ndarray:
        return ratio(sums[..., 2] / math.log(2), sums[..., 3])


@dataclass(frozen=True, slots=True, kw_only=True)
class Length(MeanMetric):
    """Mean length of generated answers in tokens, thinking included. NaN for an answer without tokens."""

    bounds: ClassVar[tuple[float, float] | None] = (0.0, math.inf)
    larger_is_better: ClassVar[bool | None] = None

    def values(self, items: Sequence[Item], answers: Sequence[Answer]) -> np.ndarray:
        return np.array([answer.num_tokens or np.nan for answer in answers], dtype=np.float64)


@dataclass(frozen=True, slots=True, kw_only=True)
class Truncation(MeanMetric):
    """Share of generated answers that end at the token limit. NaN for an answer that failed."""

    bounds: ClassVar[tuple[float, float] | None] = (0.0, 1.0)
    larger_is_better: ClassVar[bool | None] = False

    def values(self, items: Sequence[Item], answers: Sequence[Answer]) -> np.ndarray:
        ends = {"stop": 0.0, "length": 1.0}
        return np.array([ends.get(answer.stop, np.nan) for answer in answers], dtype=np.float64)


@dataclass(frozen=True, slots=True, kw_only=True)
class Repetition(MeanMetric):
    """Mean share of an answer's 4-grams that repeat an earlier one (seq-rep-4, Welleck et al. 2020).

    Units are words of English or characters of Chinese, not the model's tokens, so that models compare. NaN for an
    answer without text.
    """

    bounds: ClassVar[tuple[float, float] | None] = (0.0, 1.0)
    larger_is_better: ClassVar[bool | None] = False
    language: Language = Language.en
    """Unit: words of `en`, characters of `zh`."""

    def values(self, items: Sequence[Item], answers: Sequence[Answer]) -> np.ndarray:
        return np.array([self._share(answer.text) if answer.text.strip() else np.nan for answer in answers])

    def _share(self, text: str) -> float:
        numbers: dict[str, int] = {}
        ids = np.array([numbers.setdefault(unit, len(numbers)) for unit in tokens(text, self.language)], np.int32)
        return repetition([(ids, np.ones(len(ids), bool))])

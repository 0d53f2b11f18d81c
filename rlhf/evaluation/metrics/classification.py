"""Classification by a generated label: accuracy and macro-F1 (Opitz and Burst 2019, the mean of the classes' F1)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from rlhf.evaluation.items import Answer, Item
from rlhf.evaluation.metrics.base import MeanMetric, Metric, ratio
from rlhf.evaluation.metrics.exact import HAN
from rlhf.evaluation.metrics.requirements import final_text, references
from rlhf.rewards.text import half_width
from rlhf.types import InputError

MAX_LABELS = 200
"""Largest number of labels of a confusion matrix, whose size is a row of statistics."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Accuracy(MeanMetric):
    """Share of answers whose label is one of the item's references."""

    bounds: ClassVar[tuple[float, float] | None] = (0.0, 1.0)
    labels: tuple[str, ...] = ()
    """All labels; empty: those that occur in the references."""

    def values(self, items: Sequence[Item], answers: Sequence[Answer]) -> np.ndarray:
        labels = _labels(self.labels, items, "accuracy")
        rights = [{_plain(each) for each in references(item, "accuracy")} for item in items]
        predicted = [_plain(find_label(final_text(answer), labels) or "") for answer in answers]
        return np.array([name in right for name, right in zip(predicted, rights, strict=True)], dtype=np.float64)


@dataclass(frozen=True, slots=True, kw_only=True)
class MacroF1(Metric):
    """Mean over the classes of the F1 of their labels.

    A class counts if an item has it or an answer names it, as in scikit-learn's default. An answer without a label
    lowers its class's recall. The statistics are 1 and the cell of the confusion matrix. If an item has several
    references, its class is the one that was answered, else the first.
    """

    bounds: ClassVar[tuple[float, float] | None] = (0.0, 1.0)
    labels: tuple[str, ...] = ()
    """All labels; empty: those that occur in the references, so statistics of other items have other columns."""

    def statistics(self, items: Sequence[Item], answers: Sequence[Answer]) -> np.ndarray:
        labels = _labels(self.labels, items, "macro-F1")
        if len(labels) > MAX_LABELS:
            raise InputError(
                f"{items[0].where}: the references have {len(labels)} different labels, and macro-F1 takes "
                f"{MAX_LABELS} at most: use accuracy, or correct the references"
            )
        indices = {_plain(label): index for index, label in enumerate(labels)}
        rows = np.zeros((len(items), 1 + len(labels) * (len(labels) + 1)))
        for row, item, answer in zip(rows, items, answers, strict=True):
            rights = [_class(each, indices, item) for each in references(item, "macro-F1")]
            label = find_label(final_text(answer), labels)
            predicted = len(labels) if label is None else indices[_plain(label)]
            actual = predicted if predicted in rights else rights[0]
            row[[0, 1 + actual * (len(labels) + 1) + predicted]] = 1
        return rows

    def figure(self, sums: np.ndarray) -> np.ndarray:
        matrix = confusion_matrix(sums)
        right = np.diagonal(matrix[..., :-1], axis1=-2, axis2=-1)
        sizes = matrix.sum(axis=-1) + matrix[..., :-1].sum(axis=-2)  # items of a class + answers that name it
        scores = ratio(2 * right, sizes)
        return ratio(np.nansum(scores, axis=-1), (sizes > 0).sum(axis=-1))


def confusion_matrix(sums: np.ndarray) -> np.ndarray:  # [..., 1 + K * (K + 1)] -> [..., K, K + 1]
    """Return the number of items by class (row) and answered label (column), from sums of `MacroF1`'s statistics.

    The last column counts answers without a label.
    """
    num_labels = round((np.sqrt(4 * sums.shape[-1] - 3) - 1) / 2)
    assert sums.shape[-1] == 1 + num_labels * (num_labels + 1)
    return sums[..., 1:].reshape(*sums.shape[:-1], num_labels, num_labels + 1)


def find_label(text: str, labels: Sequence[str]) -> str | None:
    """Return the label that a text equals, apart from case, width and punctuation around it, else the only one that
    occurs in it; None for none or several.

    Labels of letters occur as whole words only, Chinese ones anywhere. A label inside a longer one (`positive` in
    `very positive`) does not count.
    """
    text, plain = _plain(text), {_plain(label): label for label in labels}
    if text in plain:
        return plain[text]
    occurring = set()
    for name in sorted(plain, key=len, reverse=True):
        remaining = re.sub(_pattern(name), "\0", text) if name else text
        if remaining != text:
            occurring.add(plain[name])
            text = remaining
    return occurring.pop() if len(occurring) == 1 else None


def _pattern(label: str) -> str:
    before = rf"(?<![^\W{HAN}])" if re.match(rf"[^\W{HAN}]", label) else ""
    after = rf"(?![^\W{HAN}])" if re.search(rf"[^\W{HAN}]$", label) else ""
    return f"{before}{re.escape(label)}{after}"


def _plain(text: str) -> str:
    text = " ".join(half_width(text).lower().split())
    places = [place for place, character in enumerate(text) if character.isalnum()]
    return text[places[0] : places[-1] + 1] if places else text


def _class(reference: str, indices: dict[str, int], item: Item) -> int:
    if _plain(reference) not in indices:
        raise InputError(
            f"{item.where}: item '{item.id}' has the reference '{reference}', which is not among the labels "
            f"{', '.join(indices)}: add it to the metric's labels, or correct the item"
        )
    return indices[_plain(reference)]


def _labels(given: tuple[str, ...], items: Sequence[Item], metric: str) -> tuple[str, ...]:
    """Return the labels; without any given, the references in sorted order."""
    names = given or sorted({each for item in items for each in references(item, metric)})
    return tuple({_plain(name): name for name in reversed(names)}.values())[::-1]

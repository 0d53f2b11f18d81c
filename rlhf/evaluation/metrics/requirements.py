"""Parts of an item that a metric requires."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from rlhf.evaluation.items import Answer, ChoiceLogprob, Item
from rlhf.types import InputError


def references(item: Item, metric: str) -> tuple[str, ...]:
    """Return the item's reference answers. Raises InputError if there is none."""
    if not item.references:
        raise InputError(
            f"{item.where}: item '{item.id}' has no reference answer, which {metric} needs: add one, or remove the "
            "metric from the suite"
        )
    return item.references


def right_choices(item: Item, metric: str) -> tuple[int, ...]:
    """Return the indices of the right choices. Raises InputError if there is none, or one without a choice."""
    if not item.right:
        raise InputError(
            f"{item.where}: item '{item.id}' marks no choice as right, which {metric} needs: add the index of one, or "
            "remove the metric from the suite"
        )
    if item.choices and not all(0 <= index < len(item.choices) for index in item.right):
        raise InputError(
            f"{item.where}: item '{item.id}' has {len(item.choices)} choices, and its right ones are "
            f"{', '.join(map(str, item.right))}: count them from 0"
        )
    return item.right


def meta(item: Item, key: str, metric: str, example: str) -> Any:
    """Return a value of the item's `meta`. Raises InputError with an example if it is missing."""
    if item.meta.get(key) is None:
        raise InputError(
            f"{item.where}: item '{item.id}' has no {key}, which {metric} needs: add it, such as {example}, or remove "
            "the metric from the suite"
        )
    return item.meta[key]


def likelihoods(
    items: Sequence[Item], answers: Sequence[Answer], metric: str
) -> Iterator[tuple[Item, tuple[ChoiceLogprob, ...] | None]]:
    """Yield each item with the likelihoods of its choices; None if the answer does not have one for each.

    Raises InputError if an item has no choices.
    """
    for item, answer in zip(items, answers, strict=True):
        if not item.choices:
            raise InputError(
                f"{item.where}: item '{item.id}' has no choices, whose likelihood {metric} needs: add them, or remove "
                "the metric from the suite"
            )
        yield item, answer.choices if len(answer.choices) == len(item.choices) else None


def final_text(answer: Answer) -> str:
    """Return the text after the thinking of a reasoning model; all of it if it has no thinking that ends."""
    return answer.text.rpartition("</think>")[2].strip()

"""Verifiable instructions: prompt-level and instruction-level accuracy of IFEval (Zhou et al. 2023, section 3).

An item's meta has `instruction_id_list` and `kwargs`, one mapping per instruction, as in the published file.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import numpy as np

from rlhf.evaluation.items import Answer, Item
from rlhf.evaluation.metrics.base import Metric, ratio
from rlhf.evaluation.metrics.instruction_checks import CHECKS, RELATIONS
from rlhf.evaluation.metrics.requirements import meta
from rlhf.evaluation.text import Language
from rlhf.types import InputError


@dataclass(frozen=True, slots=True, kw_only=True)
class InstructionAccuracy(Metric):
    """Share of instructions that the answers follow. The statistics are 1, instructions, and instructions followed."""

    bounds: ClassVar[tuple[float, float] | None] = (0.0, 1.0)
    language: Language = Language.en
    """Language of the suite: in `zh` words are characters, and full-width punctuation counts."""
    loose: bool = False
    """True: an instruction also counts if the answer follows it without its first line, its last one, or asterisks.
    """

    def statistics(self, items: Sequence[Item], answers: Sequence[Answer]) -> np.ndarray:
        rows = np.ones((len(items), 3))
        for row, item, answer in zip(rows, items, answers, strict=True):
            row[1:] = self._counts(self._followed(item, answer))
        return rows

    def figure(self, sums: np.ndarray) -> np.ndarray:
        return ratio(sums[..., 2], sums[..., 1])

    def _counts(self, followed: Sequence[bool]) -> tuple[int, int]:
        return len(followed), sum(followed)

    def _followed(self, item: Item, answer: Answer) -> list[bool]:
        """Return whether the answer follows each of the item's instructions."""
        text = answer.text.rpartition("</think>")[2]
        text = text.lstrip() if text != answer.text else text
        versions = [each for each in (_relaxed(text) if self.loose else [text]) if each.strip()]
        chinese = self.language is Language.zh
        return [any(check(each, chinese) for each in versions) for check in _checks(item)]


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptInstructionAccuracy(InstructionAccuracy):
    """Share of answers that follow all of their instructions. The statistics are 1, 1, and whether the answer does."""

    def _counts(self, followed: Sequence[bool]) -> tuple[int, int]:
        return 1, int(all(followed))


def _relaxed(text: str) -> list[str]:
    """Return a text's eight versions of the loose accuracy."""
    lines = text.split("\n")
    parts = [text, *("\n".join(each).strip() for each in (lines[1:], lines[:-1], lines[1:-1]))]
    return [*parts, *(part.replace("*", "") for part in parts)]


def _checks(item: Item) -> Iterator[Any]:
    """Yield the checks of an item's instructions with their arguments bound. Raises InputError."""
    names = meta(item, "instruction_id_list", "instruction accuracy", '["punctuation:no_comma"]')
    given = meta(item, "kwargs", "instruction accuracy", "[{}]")
    if isinstance(names, str) or not isinstance(names, Sequence) or not names:
        raise InputError(
            f"{item.where}: instruction_id_list is {names!r}: give a list of ids, such as {next(iter(CHECKS))}"
        )
    if not isinstance(given, Sequence) or len(given) != len(names):
        raise InputError(f"{item.where}: kwargs is {given!r} for {len(names)} instructions: give a mapping for each")
    for name, options in zip(names, given, strict=True):
        if name not in CHECKS:
            raise InputError(f"{item.where}: '{name}' is no verifiable instruction: use one of {', '.join(CHECKS)}")
        if not isinstance(options, Mapping):
            raise InputError(f"{item.where}: kwargs of {name} are {options!r}: give a mapping, such as {{}}")
        # The published file as a table has every argument for every instruction, null if it has none.
        used = {key: value for key, value in options.items() if value is not None}
        _require_arguments(item, name, used)
        yield partial(CHECKS[name], **used)


def _require_arguments(item: Item, name: str, options: Mapping[str, Any]) -> None:
    parameters = inspect.signature(CHECKS[name]).parameters.values()
    known = {each.name: each for each in parameters if each.kind is inspect.Parameter.KEYWORD_ONLY}
    for key, parameter in known.items():
        if key not in options and parameter.default is inspect.Parameter.empty:
            raise InputError(f"{item.where}: {name} has no {key} in its kwargs: add it")
    for key, value in options.items():
        if key not in known:
            raise InputError(f"{item.where}: {name} has {key} in its kwargs, which it does not take: remove it")
        if not _is_typed(value, str(known[key].annotation)):
            raise InputError(f"{item.where}: {name} has {key}={value!r}: give a value like {known[key].annotation}")
        if key.endswith("relation") and value not in RELATIONS:
            raise InputError(f"{item.where}: {name} has {key}={value!r}: give {' or '.join(RELATIONS)}")


def _is_typed(value: Any, annotation: str) -> bool:
    if annotation == "int":
        return isinstance(value, int | float) and not isinstance(value, bool)
    if annotation == "str":
        return isinstance(value, str)
    return isinstance(value, Sequence) and not isinstance(value, str) and all(isinstance(each, str) for each in value)

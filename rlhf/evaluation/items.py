"""Items of a suite and the answers to them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from rlhf.types import Message


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One question of a suite."""

    id: str
    """Name within the suite, from the data or the line: equal between runs on the same file."""
    messages: tuple[Message, ...]
    """The dialogue up to the answer; empty for a text whose own likelihood is measured."""
    references: tuple[str, ...] = ()
    """Right answers, any of which counts."""
    choices: tuple[str, ...] = ()
    """Texts to choose from, or the one text whose likelihood is measured."""
    right: tuple[int, ...] = ()
    """Indices of the right choices."""
    cluster: str = ""
    """Name shared by items that are not independent, such as the questions on one passage. Empty: `id`."""
    meta: Mapping[str, Any] = field(default_factory=dict)
    """Further values that a metric or a slice reads, such as a category, function schemas or a context."""
    where: str = ""
    """Place of the row, as `file:line`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChoiceLogprob:
    """Likelihood of one choice, given the messages."""

    logprob: float
    """Sum over its tokens, in nats."""
    num_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A model's answer to one item: a text it generated, or the likelihood of each choice."""

    item: str
    """The item's id."""
    sample: int = 0
    """Number of the answer among several to one item."""
    text: str = ""
    stop: str = ""
    """Reason for the end of the text: `stop`, `length`, or a failure's kind."""
    num_tokens: int = 0
    choices: tuple[ChoiceLogprob, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """One row of a benchmark before it is written as a prompt."""

    id: str
    fields: Mapping[str, str]
    """Texts that the suite's template may name, such as `question` and `context`."""
    references: tuple[str, ...] = ()
    choices: tuple[str, ...] = ()
    right: tuple[int, ...] = ()
    cluster: str = ""
    meta: Mapping[str, Any] = field(default_factory=dict)
    messages: tuple[Message, ...] = ()
    """A dialogue that the row itself has, which takes the template's place."""
    where: str = ""

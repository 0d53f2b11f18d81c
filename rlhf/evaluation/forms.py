"""Choices of a suite: how a model answers, and the area of the report in which it counts."""

from __future__ import annotations

from enum import StrEnum


class Area(StrEnum):
    """Areas of a report. The first four are capabilities; a loss in them after alignment is the alignment tax."""

    understanding = "understanding"
    generation = "generation"
    reasoning = "reasoning"
    knowledge = "knowledge"
    helpful = "helpful"
    harmless = "harmless"
    honest = "honest"
    safety = "safety"


CAPABILITIES = (Area.understanding, Area.generation, Area.reasoning, Area.knowledge)


class Form(StrEnum):
    """Ways in which a model answers."""

    generate = "generate"
    """A text is written."""
    likelihood = "likelihood"
    """The likelihood of each choice is measured."""

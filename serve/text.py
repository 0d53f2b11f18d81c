"""Clients' text within error sentences."""

from __future__ import annotations

SHOWN = 200
"""Characters of a client's text that a sentence repeats."""


def excerpt(value: object) -> str:
    text = str(value)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."

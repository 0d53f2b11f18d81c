"""Excerpts of clients' text for error messages."""

from __future__ import annotations

SHOWN = 200
"""Number of characters of a client's text that a message repeats."""


def excerpt(value: object) -> str:
    text = str(value)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."

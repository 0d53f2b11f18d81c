"""What is kept of users who gave no consent: numbers, times and salted hashes, and no word of theirs."""

from __future__ import annotations

import hmac
from collections.abc import Collection, Mapping
from typing import Any

SILENT: dict[str, None] = {"text": None, "tool_calls": None}
"""Columns of a response that are kept with consent alone."""


def wordless(sampling: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters that are numbers; stop strings, tokens of a bias and the like are what a user wrote."""
    return {name: value for name, value in sampling.items() if isinstance(value, int | float)}


def without_words(request: Mapping[str, Any]) -> dict[str, Any]:
    """A row of a request as it is kept without consent. Error sentences may quote what was asked; the status stays."""
    return {**request, "messages": None, "error": None, "sampling": wordless(request["sampling"])}


def known_name(name: str | None, outcomes: Collection[str]) -> str | None:
    """An outcome's name, where an operator chose it as a metric; any other is the sender's own."""
    return name if name in outcomes else None


def salted(salt: str, digest: str) -> str:
    """A digest that is equal for equal texts of one store, and says nothing to who knows the text but not the salt."""
    return hmac.new(salt.encode(), digest.encode(), "sha256").hexdigest()

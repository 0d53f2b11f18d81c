"""Redaction without consent: numbers, times and salted hashes stay, texts do not."""

from __future__ import annotations

import hmac
from collections.abc import Collection, Mapping
from typing import Any

NO_TEXT: dict[str, None] = {"text": None, "tool_calls": None}
"""Columns of a response that are kept with consent alone."""


def numeric_parameters(sampling: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters that are numbers; stop strings, tokens of a bias and the like are what a user wrote."""
    return {name: value for name, value in sampling.items() if isinstance(value, int | float)}


def without_text(request: Mapping[str, Any]) -> dict[str, Any]:
    """A row of a request as it is kept without consent. Error sentences may quote what was asked; the status stays."""
    return {**request, "messages": None, "error": None, "sampling": numeric_parameters(request["sampling"])}


def metric_name(name: str | None, outcomes: Collection[str]) -> str | None:
    """An outcome's name, where an operator chose it as a metric; any other is the sender's own."""
    return name if name in outcomes else None


def salted_hash(salt: str, digest: str) -> str:
    """A digest that is equal for equal texts of one store, and says nothing to who knows the text but not the salt."""
    return hmac.digest(salt.encode(), digest.encode(), "sha256").hex()

"""The date that chat templates write as today's."""

from __future__ import annotations

import datetime
from typing import TYPE_CHECKING, Any

from rlhf.types import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def fix_date(tokenizer: PreTrainedTokenizerBase, date: str | None) -> None:
    """Let the chat template write `date`, as in 2026-11-29, as today's date; None leaves the clock.

    The tokenizer's files, and so served models, stay as they are. Raises InputError if `date` is no date.
    """
    try:
        tokenizer.template_date = date and datetime.datetime.fromisoformat(date)
    except ValueError:
        raise InputError(f"template_date={date}: give a day as in 2026-11-29, or null for that of the start") from None


def clock_of(tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """Return the replacement of transformers' `strftime_now` in templates for a fixed date."""
    date = tokenizer.__dict__.get("template_date")
    return {"strftime_now": date.strftime} if date else {}


def writes_date(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Return whether the chat template, or one of several, writes today's date."""
    own = tokenizer.chat_template or ""
    return any("strftime_now" in text for text in (own.values() if isinstance(own, dict) else [own]))

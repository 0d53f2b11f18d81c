"""Checks of names that clients send, and excerpts of them for error messages."""

from __future__ import annotations

import unicodedata
from typing import Annotated

from pydantic import AfterValidator, Field

SHOWN = 200
"""Number of characters of a client's text that a message repeats."""
BREAKS = "\n\t\r"


def excerpt(value: object) -> str:
    text = str(value)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."


def check_plain(text: str) -> str:
    """Return the text. Raises ValueError if it has control characters or lone surrogates.

    Databases cannot store some of them, and none belongs in a name.
    """
    for character in text:
        if unicodedata.category(character) in ("Cc", "Cs") and character not in BREAKS:
            raise ValueError(f"it has the character U+{ord(character):04X}; leave it out")
    return text


PLAIN = AfterValidator(check_plain)
Plain = Annotated[str, PLAIN, Field(json_schema_extra={"pattern": r"^[^\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]*$"})]
"""Text without control characters other than line breaks and tabs."""

"""Plain text: what clients send as names, without control characters."""

from __future__ import annotations

import unicodedata
from typing import Annotated

from pydantic import AfterValidator, Field

BREAKS = "\n\t\r"


def check_plain(text: str) -> str:
    """Return the text. Raises ValueError if it has control characters or lone surrogates.

    Databases cannot hold some of them, and none belongs in a name.
    """
    for character in text:
        if unicodedata.category(character) in ("Cc", "Cs") and character not in BREAKS:
            raise ValueError(f"it has the character U+{ord(character):04X}; leave it out")
    return text


PLAIN = AfterValidator(check_plain)
Plain = Annotated[str, PLAIN, Field(json_schema_extra={"pattern": r"^[^\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]*$"})]
"""Text without control characters, line breaks and tabs excepted."""

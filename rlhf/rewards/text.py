"""Helpers for reading answers, shared by the text rewards."""

from __future__ import annotations

from rlhf.types import Prompt

_MINUS_SIGNS = (0x2010, 0x2011, 0x2012, 0x2013, 0x2212, 0xFE63)
_HALF_WIDTH = {
    **{code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F)},
    **dict.fromkeys(_MINUS_SIGNS, ord("-")),
    **{0x3000: ord(" "), 0x00A0: ord(" "), 0xFFE5: ord("¥")},
}


def half_width(text: str) -> str:
    """Return the text with full-width digits, letters and signs, and dashes used as minus, as ASCII.

    NFKC changes more than that: it turns 10² into 102.
    """
    return text.translate(_HALF_WIDTH)


def answer_of(prompt: Prompt) -> str:
    """Return the prompt's answer as text, without surrounding white space. Raises ValueError if there is none."""
    answer = prompt.meta.get("answer")
    if answer is None:
        raise ValueError(
            f"prompt '{prompt.id}' ({prompt.source}) has no answer: set data.answer_key to the column that holds it"
        )
    return str(answer).strip()


def boxed(text: str) -> str | None:
    r"""Return the contents of the last `\boxed{...}`; None if there is none or its brace stays open."""
    start = text.rfind(r"\boxed{")
    if start < 0:
        return None
    start += len(r"\boxed{")
    depth = 1
    for end in range(start, len(text)):
        depth += {"{": 1, "}": -1}.get(text[end], 0)
        if depth == 0:
            return text[start:end]
    return None


def marked(text: str) -> str | None:
    """Return the rest of the line after the last `####` (the end of a GSM8K solution); None if there is none."""
    _, mark, rest = text.rpartition("####")
    return rest.strip().partition("\n")[0] if mark else None

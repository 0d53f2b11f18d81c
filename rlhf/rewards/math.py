"""Reward for mathematics equal to the answer's: numbers exactly, everything else by the math-verify library."""

from __future__ import annotations

import logging
import re
from typing import Any

import sympy
from math_verify import LatexExtractionConfig, parse, verify

from rlhf.rewards.answer import Span, answer_span, expression, gold_number, number_in
from rlhf.rewards.number import Number, same
from rlhf.rewards.text import answer_of
from rlhf.types import Prompt, Rollout

# math-verify warns once that its SIGALRM timeouts are off. The process's deadline replaces them; it stops C code too.
logging.getLogger("math_verify").setLevel(logging.ERROR)

_PRECISION = sympy.Rational(1, 10**12)
_PLAIN = {"π": r"\pi ", "×": r"\times ", "÷": r"\div ", "·": r"\cdot ", "≤": r"\le ", "≥": r"\ge ", "≠": r"\ne ",
          "∞": r"\infty ", "**": "^", "¤": ""}  # fmt: skip


def math_verify(prompt: Prompt, rollout: Rollout) -> float:
    r"""Return 1.0 if the completion's expression equals the answer's, else 0.0.

    `rlhf.rewards.answer` locates the expression of a text. Two numbers are compared as in `numeric`; an expression and
    a number by value, to 12 digits; everything else by math-verify. The prompt's answer is a number, LaTeX
    (`\frac{\pi}{2}`), words (`\text{even}`), or a solution that ends with one of them in `\boxed{}` or after `####`.
    Raises ValueError if it cannot be read.
    """
    answer = answer_of(prompt)
    number = gold_number(answer)
    if number is not None:
        return float(_equals_number(number, rollout.text))
    gold = answer_span(answer)
    parsed = _parse(gold.text.strip("$"))
    if not parsed:
        raise ValueError(
            f"prompt '{prompt.id}' ({prompt.source}): math-verify cannot read its answer {prompt.meta['answer']!r}"
        )
    found = answer_span(rollout.text)
    if _words(gold) is not None:
        return float(_words(found) == _words(gold))
    candidates = [expression(found), found.text if found.is_announced else None]
    return float(any(verify(parsed, _parse(each), timeout_seconds=None) for each in candidates if each))


def _equals_number(gold: Number, text: str) -> bool:
    found = number_in(text)
    if found is not None:
        return same(gold, found)
    written = expression(answer_span(text))
    if not written:
        return False
    value = sympy.Rational(gold.value.numerator, gold.value.denominator)
    return any(_value_is(each, value) for each in _parse(written))


def _value_is(parsed: Any, value: sympy.Rational) -> bool:
    """Return whether an expression, or the right side of an equation, has this value."""
    while isinstance(parsed, sympy.Eq):
        parsed = parsed.rhs
    if not isinstance(parsed, sympy.Expr) or parsed.free_symbols or not parsed.is_number:
        return False
    difference = sympy.Abs(parsed.evalf(30) - value)
    return bool(difference <= _PRECISION * max(1, abs(value)))


def _words(span: Span) -> str | None:
    """Return the letters of a span of words in lower case; None if the span is mathematics."""
    text = span.text.strip("$ .,;!?。()").lower()
    return " ".join(text.split()) if re.search(r"[^\W\d_]{2}", re.sub(r"\\[a-z]+", "", text)) else None


def _parse(text: str) -> list[Any]:
    r"""Parse a text with math-verify as LaTeX; outside dollars it would read numbers only: 3x+2 would be 3."""
    for plain, latex in _PLAIN.items():
        text = text.replace(plain, latex)
    text = re.sub(r"(?<!\\)\bsqrt\s*\(([^()]*)\)|√\s*\(([^()]*)\)|√\s*([0-9]+)",
                  lambda found: rf"\sqrt{{{found[1] or found[2] or found[3]}}}", text)  # fmt: skip
    text = text.replace("$", "").strip()
    if not text:
        return []
    found = parse(f"${text}$", extraction_config=[LatexExtractionConfig()], parsing_timeout=None)
    return found if len(found) and isinstance(found[0], sympy.Basic | sympy.MatrixBase) else []

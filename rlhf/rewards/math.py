"""The completion's mathematics equals the answer's, by the math-verify library."""

from __future__ import annotations

import logging
from typing import Any

from math_verify import parse, verify

from rlhf.rewards.text import answer_of, half_width, marked
from rlhf.types import Prompt, Rollout

# math-verify warns once that its SIGALRM timeouts are off. Ours is the deadline of the process, which kills C code too.
logging.getLogger("math_verify").setLevel(logging.ERROR)


def math_verify(prompt: Prompt, rollout: Rollout) -> float:
    r"""1.0 where math-verify finds the completion's expression equal to the answer's, else 0.0.

    The answer is LaTeX (`\frac{1}{2}`), a solution with a `\boxed{}` in it, or one that ends on `#### 72`; completions
    may be of the last two kinds too. One that cannot be parsed is wrong; such an answer raises ValueError.
    """
    # Outside of dollars math-verify reads numbers alone: 3x+2 would be 3.
    answer = half_width(answer_of(prompt))
    gold = _parse(answer if r"\boxed" in answer else f"${marked(answer) or answer}$")
    if not gold:
        raise ValueError(
            f"prompt '{prompt.id}' ({prompt.source}): math-verify cannot read its answer {prompt.meta['answer']!r}"
        )
    text = half_width(rollout.text)
    found = _parse(text if r"\boxed" in text else marked(text) or text)
    return float(verify(gold, found, timeout_seconds=None))


def _parse(text: str) -> list[Any]:
    return parse(text, parsing_timeout=None)

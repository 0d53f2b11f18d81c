"""The completion's number is the answer's number."""

from __future__ import annotations

import re
from decimal import Decimal

from rlhf.rewards.text import answer_of, boxed, half_width, marked
from rlhf.types import Prompt, Rollout

# A minus after a letter, digit or bracket subtracts; digits after a letter or ^ belong to a name (H2O, m^2).
_NUMBER = re.compile(
    r"(?P<sign>(?<![0-9A-Za-z)\]}])-)?[$¥€£]?(?<![0-9A-Za-z_.^])"
    r"(?P<size>(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+)(?:\.[0-9]+)?|\.[0-9]+)"
)


def numeric(prompt: Prompt, rollout: Rollout) -> float:
    r"""1.0 where the number the completion ends on equals the answer's, as decimals, else 0.0.

    In either text the number is the last one in the last `\boxed{}`, else after the last `####` on its line, else
    anywhere. The answer may be a whole GSM8K solution. Units and percent signs are ignored: 50% equals 50, not 0.5.
    Raises ValueError where the answer holds no number.
    """
    gold = last_number(answer_of(prompt))
    if gold is None:
        raise ValueError(
            f"prompt '{prompt.id}' ({prompt.source}): its answer {prompt.meta['answer']!r} holds no number"
        )
    return float(last_number(rollout.text) == gold)


def last_number(text: str) -> Decimal | None:
    """The number a text ends on, see `numeric`, or None where it holds none."""
    text = half_width(text).replace("{,}", ",").replace(r"\$", "$")
    for part in (boxed(text), marked(text)):
        if part is not None:
            text = part
            break
    found = list(_NUMBER.finditer(text))
    return Decimal((found[-1]["sign"] or "") + found[-1]["size"].replace(",", "")) if found else None

"""Reward for a number equal to the answer's number."""

from __future__ import annotations

from rlhf.rewards.answer import gold_number, number_in
from rlhf.rewards.number import same
from rlhf.rewards.text import answer_of
from rlhf.types import Prompt, Rollout


def numeric(prompt: Prompt, rollout: Rollout) -> float:
    r"""Return 1.0 if the completion's number equals the answer's exactly, else 0.0.

    `rlhf.rewards.answer` locates the answer of a text; the prompt's may be a whole GSM8K solution. Supported are
    decimals, fractions (`1/2`, `\frac12`, `1 1/2`, `二分之一`), thousands separators, powers of ten, `1.6万`.
    Units and percent signs are ignored: 50% equals 50, not 0.5. Raises ValueError if the prompt's answer has no number,
    or several.
    """
    gold = gold_number(answer_of(prompt))
    if gold is None:
        raise ValueError(
            f"prompt '{prompt.id}' ({prompt.source}): its answer {prompt.meta['answer']!r} holds no number that is "
            "certain: give one, such as 72, -1/2 or 12.5%, alone or after ####"
        )
    found = number_in(rollout.text)
    return float(found is not None and same(gold, found))

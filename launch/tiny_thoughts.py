"""Tiny task for chain-of-thought RL on two CPU cores: write a number backwards, thinking first.

`write_data` is a stage of `conf/pipeline/tiny_cot.yaml`. Held-out numbers are in none of the training files.
"""

import json
import random
from pathlib import Path

NUM_HELD_OUT, THINKS_EVERY = 100, 4


def numbers() -> list[str]:
    """Return all numbers of three digits without a zero, in random order."""
    found = [f"{a}{b}{c}" for a in range(1, 10) for b in range(1, 10) for c in range(1, 10)]
    random.Random(0).shuffle(found)
    return found


def response(number: str, index: int) -> str:
    """Return an example's response: every fourth one thinks first, digit by digit."""
    right = number[::-1]
    return f"<think>{' '.join(right)}</think>{right}" if index % THINKS_EVERY == 0 else right


def write_data(folder: Path) -> None:
    """Write examples and prompts, for training and for held-out numbers."""
    folder.mkdir(parents=True, exist_ok=True)
    every = numbers()
    for name, chosen in (("train", every[NUM_HELD_OUT:]), ("held_out", every[:NUM_HELD_OUT])):
        rows = [
            {"prompt": f"{number}=", "answer": number[::-1], "response": response(number, i)}
            for i, number in enumerate(chosen)
        ]
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / f"thoughts_{name}.jsonl").write_text(text, encoding="utf-8")

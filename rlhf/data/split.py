"""Held-out splits and folds in which the rows of one prompt stay together."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence

import numpy as np

from rlhf.types import InputError, Prompt, Unit


def prompt_groups(units: Sequence[Unit]) -> list[int]:
    """Number the prompts of the units, from 0 in the order of first appearance."""
    numbers: dict[object, int] = {}
    return [
        numbers.setdefault(unit[0].prompt_id or ("alone", position), len(numbers))
        for position, unit in enumerate(units)
    ]


def split_held_out(units: Sequence[Unit], fraction: float, seed: int) -> tuple[list[Unit], list[Unit]]:
    """Return training units and held-out units, each in the given order; units of one prompt are on one side.

    `fraction` of the units are held out, rounded, at least one, and fewer if no set of prompts adds up to that number.
    Raises InputError if no such split exists.
    """
    assert 0 < fraction < 1
    groups = prompt_groups(units)
    sizes = np.bincount(groups)
    wanted = max(1, round(fraction * len(units)))
    held_out: set[int] = set()
    room = min(wanted, len(units) - 1)
    for group in np.random.Generator(np.random.PCG64(seed)).permutation(len(sizes)).tolist():
        if sizes[group] <= room:
            held_out.add(group)
            room -= int(sizes[group])
    if not held_out:
        raise InputError(
            f"{len(units)} rows of {len(sizes)} prompts or documents cannot be split with {wanted} held out: the rows "
            "of one prompt or document stay together; give more of them, hold out a larger share, or none"
        )
    sides: tuple[list[Unit], list[Unit]] = ([], [])
    for unit, group in zip(units, groups, strict=True):
        sides[group in held_out].append(unit)
    return sides


def digest_of_prompt(prompt: Prompt) -> int:
    """Return 64 bits of a digest of the messages and tools: equal wherever, and with whatever answer, they occur."""
    asked = [list(map(dict, prompt.messages)), prompt.tools]
    text = json.dumps(asked, sort_keys=True, ensure_ascii=False, default=str)
    return int.from_bytes(hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:8], "big")


def split_prompts(prompts: Sequence[Prompt], fraction: float) -> tuple[list[Prompt], list[Prompt]]:
    """Return training prompts and held-out prompts, each in the given order.

    A prompt is held out if its digest is below `fraction` of the range. Its side depends on nothing else: it is the
    same for every seed, limit and order of rows, and a larger fraction holds out the same prompts and more. The share
    of the prompts is therefore only about `fraction`.
    """
    sides: tuple[list[Prompt], list[Prompt]] = ([], [])
    for prompt in prompts:
        sides[digest_of_prompt(prompt) < fraction * 2**64].append(prompt)
    return sides

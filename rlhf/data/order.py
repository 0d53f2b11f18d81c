"""The order in which a run asks its prompts."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np

from rlhf.types import Prompt


@dataclass(slots=True)
class PromptOrder:
    """Every epoch of a set has each of its prompts once, in an order of its own; sets are mixed by their weights.

    A position takes from the set that is furthest behind its share of the positions up to there, so that any stretch of
    positions, and so a training step, has each set's share to within a prompt or two. Position and seed decide alone.
    """

    prompts: Sequence[Prompt]
    seed: int
    weights: Mapping[str, float] = field(default_factory=lambda: {"": 1.0})
    """Positive weights of the sets that are asked, by name; each has a prompt."""
    sets: dict[str, list[Prompt]] = field(init=False)
    taken: list[tuple[str, int]] = field(default_factory=list, init=False)
    """The set of each position computed so far, and the number of earlier positions that take from it."""
    counts: dict[str, int] = field(init=False)

    def __post_init__(self) -> None:
        found = by_set(self.prompts)
        self.sets = {name: found[name] for name in self.weights}
        self.counts = dict.fromkeys(self.weights, 0)

    def prompt_at(self, position: int) -> tuple[int, Prompt]:
        """Return the epoch and the prompt at `position`, which counts from 0 over all sets and epochs."""
        name, number = self.slot_at(position)
        return self.epoch_of(name, number), self.prompt_of(name, number)

    def slot_at(self, position: int) -> tuple[str, int]:
        """Return the set from which `position` takes, and the number of earlier positions that take from it."""
        while len(self.taken) <= position:
            name = max(self.counts, key=self.arrears)
            self.taken.append((name, self.counts[name]))
            self.counts[name] += 1
        return self.taken[position]

    def arrears(self, name: str) -> float:
        """Return the number of prompts that a set would lack if the next position took from another."""
        share = self.weights[name] / sum(self.weights.values())
        return share * (len(self.taken) + 1) - self.counts[name]

    def epoch_of(self, name: str, number: int) -> int:
        """Return the epoch of a set's `number`-th place, from 0."""
        return number // len(self.sets[name])

    def prompt_of(self, name: str, number: int) -> Prompt:
        """Return the prompt of a set's `number`-th place, from 0."""
        prompts = self.sets[name]
        epoch, index = divmod(number, len(prompts))
        return prompts[int(permutation(len(prompts), (self.seed, epoch, *seeds_of(name)))[index])]


def by_set(prompts: Iterable[Prompt]) -> dict[str, list[Prompt]]:
    """Group prompts by the name of their set, in the order of first appearance."""
    sets: dict[str, list[Prompt]] = {}
    for prompt in prompts:
        sets.setdefault(prompt.data_set, []).append(prompt)
    return sets


@lru_cache(maxsize=64)
def seeds_of(name: str) -> tuple[int, ...]:
    """Return the seeds that a set's name adds to the run's; none without a name."""
    return (int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big"),) if name else ()


@lru_cache(maxsize=16)  # prompts in flight span two epochs of each set
def permutation(num_prompts: int, seeds: tuple[int, ...]) -> np.ndarray:  # [num_prompts] int64
    return np.random.Generator(np.random.PCG64(list(seeds))).permutation(num_prompts)

"""Assignment of users to the arms of an experiment: a pure function of both."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass

from rlhf.types import InputError

TOLERANCE = 1e-9
"""Largest error of the weights' sum."""


def uniform(*words: str) -> float:
    """Return a pseudo-random number in the open interval (0, 1), the same for the same words."""
    # JSON distinguishes ("a", "bc") from ("ab", "c") and encodes every string, lone surrogates included.
    digest = hashlib.blake2b(json.dumps(words).encode(), digest_size=8).digest()
    # 52 bits plus one half are exact in a float; with one bit more the largest would round to 1, whose logarithm is 0.
    return ((int.from_bytes(digest) >> 12) + 0.5) / 2**52


def assign(weights: Mapping[str, float], salt: str, user: str) -> str:
    """Return the user's arm by weighted rendezvous hashing (Thaler and Ravishankar 1998; logarithmic weights,
    Schindelhauer and Schomaker 2005).

    Each arm draws an exponential time whose rate is its weight, and the earliest wins, so an arm of weight w gets the
    share w of all users. A draw depends only on salt, user and arm: when weights change, users move only to arms whose
    weight grows relative to the arm they leave. An arm of weight 0 is never chosen; at least one weight must be above
    0.
    """
    return min((-math.log(uniform(salt, user, arm)) / weight, arm) for arm, weight in weights.items() if weight > 0)[1]


@dataclass(frozen=True, slots=True, kw_only=True)
class Assignment:
    """The arm of a user."""

    variant: str
    listed: bool
    """True if a list assigned the user, not the draw; the user is then not part of the experiment."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """The split of one experiment's users. Raises InputError for impossible weights, arms or lists."""

    experiment: str
    salt: str
    """Experiments with the same salt give a user the same draws; draws of different salts are independent."""
    weights: Mapping[str, float]
    """Share of the users by arm."""
    candidate: str
    predecessor: str
    allow: frozenset[str] = frozenset()
    """Users who always get the candidate."""
    deny: frozenset[str] = frozenset()
    """Users who always get the predecessor."""

    def __post_init__(self) -> None:
        where = f"experiment {self.experiment}"
        if len(self.weights) < 2:
            raise InputError(
                f"{where} has arms {sorted(self.weights)}: give at least two, or there is nothing to compare"
            )
        for role, arm in (("candidate", self.candidate), ("predecessor", self.predecessor)):
            if arm not in self.weights:
                raise InputError(f"{where}: its {role} {arm!r} is none of its arms {sorted(self.weights)}")
        if self.candidate == self.predecessor:
            raise InputError(f"{where}: {self.candidate!r} is both candidate and predecessor, name two arms")
        for arm, weight in self.weights.items():
            # Written so that NaN fails it.
            if not weight >= 0:
                raise InputError(f"{where}: arm {arm!r} has weight {weight}, give a number from 0 to 1")
        total = math.fsum(self.weights.values())
        if not abs(total - 1) <= TOLERANCE:
            raise InputError(f"{where}: its weights {dict(self.weights)} sum to {total:.10g}, make them sum to 1")
        if both := sorted(self.allow & self.deny):
            raise InputError(f"{where}: users {both[:3]} are on both the allow and the deny list, remove them from one")

    def assign(self, user: str) -> Assignment:
        """Return the user's arm, which is stable as long as lists and weights do not change."""
        if user in self.allow:
            return Assignment(variant=self.candidate, listed=True)
        if user in self.deny:
            return Assignment(variant=self.predecessor, listed=True)
        return Assignment(variant=assign(self.weights, self.salt, user), listed=False)

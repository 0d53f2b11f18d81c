"""The experiment that one step of a release is: its arms, their weights and its salt."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Experiment:
    """One step of a release."""

    name: str
    """`r7/shadow`, `r7/canary-25`."""
    candidate: str
    predecessor: str
    weight: float
    """Share of users that see the candidate. 0: it answers in the shadow only."""
    last: bool
    """True if production comes next."""
    since: float
    """Unix seconds at which the step began."""
    salt: str
    """Salt of the users' draws: each step has its own, so that they are drawn afresh in each."""

    @property
    def shadow(self) -> bool:
        return self.weight == 0

    @property
    def weights(self) -> dict[str, float]:
        return {self.predecessor: 1 - self.weight, self.candidate: self.weight}

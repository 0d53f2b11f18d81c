"""A step of a release as an experiment: arms, weights and salt."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Experiment:
    """One step of a release."""

    name: str
    """Name of release and step: `r7/shadow`, `r7/canary-25`."""
    candidate: str
    predecessor: str
    weight: float
    """Share of users that see the candidate. 0: the candidate answers in the shadow only."""
    last: bool
    """True for the last step before promotion."""
    since: float
    """Unix seconds at which the step began."""
    salt: str
    """Salt of the users' draws, different for each step, so that draws of different steps are independent."""

    @property
    def shadow(self) -> bool:
        return self.weight == 0

    @property
    def weights(self) -> dict[str, float]:
        return {self.predecessor: 1 - self.weight, self.candidate: self.weight}

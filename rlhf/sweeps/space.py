"""Space of a search, in Hydra's grammar."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep, Sweep

from rlhf.sweeps.grid import swept_keys, values_of
from rlhf.types import InputError

LOG = "log"
"""Tag of an interval that is searched on a logarithmic scale."""
DIGITS = 4
"""Significant digits of a number that the search draws."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Numbers:
    """Numbers from `low` to `high`, both included."""

    low: float
    high: float
    step: float | None = None
    """Distance of two values; None for all numbers between the ends."""
    log: bool = False

    @property
    def is_whole(self) -> bool:
        return isinstance(self.low, int) and isinstance(self.high, int)

    @property
    def num_values(self) -> float:
        if self.step is None:
            return float("inf")
        return round((self.high - self.low) / self.step) + 1

    @property
    def corners(self) -> tuple[str, ...]:
        return self.text(self.low), self.text(self.high)

    @property
    def middle(self) -> str:
        if self.step is None:
            return self.text((self.low + self.high) / 2)
        return self.text(self.low + self.step * ((self.num_values - 1) // 2))

    def contains(self, text: str) -> bool:
        return self.low <= float(text) <= self.high

    def text(self, value: float) -> str:
        """Return a number as the value of an override: a whole one as `2`, another as `2.0`."""
        if self.is_whole:
            return str(int(value))
        rounded = float(f"{value:.{DIGITS}g}")
        return repr(float(min(max(rounded, self.low), self.high)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Choices:
    """Values without an order, as texts."""

    values: tuple[str, ...]

    @property
    def num_values(self) -> int:
        return len(self.values)

    @property
    def corners(self) -> tuple[str, ...]:
        return self.values

    @property
    def middle(self) -> str:
        return self.values[0]

    def contains(self, text: str) -> bool:
        return text in self.values


Space = Mapping[str, Numbers | Choices]
"""Values of each swept key."""


def space_of(overrides: Mapping[str, Override]) -> Space:
    """Return the space that overrides with several values span. Raises InputError if a key cannot be searched."""
    return {key: values_at(overrides[key]) for key in swept_keys(overrides)}


def values_at(override: Override) -> Numbers | Choices:
    sweep, word = override.value(), override.input_line
    tags = set(sweep.tags) if isinstance(sweep, Sweep) else set()
    if unknown := tags - ({LOG} if isinstance(sweep, IntervalSweep) else set()):
        raise InputError(f"{word}: tag {', '.join(sorted(unknown))} is unknown here; intervals alone take one, {LOG}")
    if isinstance(sweep, IntervalSweep):
        return interval(sweep, is_log=bool(tags), word=word)
    if isinstance(sweep, RangeSweep):
        values = sorted(sweep.range())
        if len(values) > 1:
            return Numbers(low=values[0], high=values[-1], step=abs(sweep.step))
    return Choices(values=tuple(dict.fromkeys(values_of(override))))


def interval(sweep: IntervalSweep, *, is_log: bool, word: str | None) -> Numbers:
    low, high = sweep.start, sweep.end
    assert low is not None
    assert high is not None
    if not low < high:
        raise InputError(f"{word}: the first end of an interval must be below the second; exchange or correct them")
    if is_log and low <= 0:
        raise InputError(f"{word}: a logarithmic interval must begin above 0; correct it, or drop the tag {LOG}")
    whole = isinstance(low, int) and isinstance(high, int)
    return Numbers(low=low, high=high, step=1 if whole else None, log=is_log)

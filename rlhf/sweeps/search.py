"""Search: members drawn one after another from a space, by the results of the earlier ones."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from rlhf.sweeps.config import AT_THE_END, Direction, Sampler, SweepConfig
from rlhf.sweeps.grid import member_name
from rlhf.sweeps.pruning import Curve, is_hopeless
from rlhf.sweeps.record import Member, State, Sweep
from rlhf.sweeps.report import LAST_STEPS, figures
from rlhf.sweeps.space import Space
from rlhf.sweeps.study import Trial, draw
from rlhf.train.tracking import METRICS, read_rows
from rlhf.types import InputError, RunError

METRIC_OF = {"kl": "train/kl"}
"""Metrics of the table's columns whose names differ."""


@dataclass(slots=True, kw_only=True)
class Search:
    """Source of a search's members. Its memory is the sweep's record and folders: they determine the next member, so
    that a killed search continues."""

    config: SweepConfig
    space: Space
    make: Callable[[Mapping[str, str]], Member]
    """Return the member with these values of the swept keys, as failed if its configuration is wrong."""
    ended: dict[str, Curve] = field(default_factory=dict)
    """Curves of members that do not train any more, by name."""

    def __post_init__(self) -> None:
        num_members = math.prod(values.num_values for values in self.space.values())
        if num_members < self.config.num_trials:
            raise InputError(
                f"sweep.num_trials={self.config.num_trials}: the space has {num_members} members; give fewer "
                "trials, or drop sweep.search=true for the grid of all"
            )

    def corners(self) -> list[dict[str, str]]:
        """Return the values of members at both ends and every choice of each key, the other keys in their middle."""
        middle = {key: values.middle for key, values in self.space.items()}
        return [{**middle, key: corner} for key, values in self.space.items() for corner in values.corners]

    def restore(self, members: Sequence[Member]) -> list[Member]:
        """Return the members of an earlier call. Raises InputError if it varied other keys."""
        for member in members:
            if set(member.swept) != set(self.space):
                raise InputError(
                    f"output: the sweep there varies {', '.join(sorted(member.swept))}, this one "
                    f"{', '.join(sorted(self.space))}; name another folder"
                )
        return [self.make(member.swept) for member in members]

    def next(self, sweep: Sweep) -> Member | None:
        """Return one more member; None if there are enough. Raises RunError if a member never measured the
        objective."""
        number = len(sweep.members)
        if number >= self.config.num_trials:
            return None
        trials = [self.trial(sweep, member) for member in sweep.members]
        for attempt in itertools.count():
            # A member that exists would be the same run again; random values differ from all sooner or later.
            sampler = self.config.sampler if attempt == 0 else Sampler.random
            values = draw(self.space, trials, sampler, seed=f"{self.config.seed} {number} {attempt}")
            if all(member.name != member_name(values) for member in sweep.members):
                break
        return self.make(values)

    def trial(self, sweep: Sweep, member: Member) -> Trial:
        value = self.measured(sweep, member) if member.state is State.done else None
        curve = self.curve(sweep, member) if member.state is State.pruned else {}
        return Trial(member=member, value=None if value is None else self.sign * value, curve=curve)

    def is_hopeless(self, sweep: Sweep, member: Member) -> bool:
        """Return whether a member is to end now, compared with those that began before it."""
        if self.config.pruning is None:
            return False
        earlier = itertools.takewhile(lambda other: other.name != member.name, sweep.members)
        peers = [self.curve(sweep, other) for other in earlier if other.state is not State.failed]
        return is_hopeless(self.config.pruning, self.curve(sweep, member), peers, self.config.pruning_start)

    def describe_best(self, sweep: Sweep) -> str:
        """Return a sentence on the best of the members that trained to their end."""
        done = [(member, self.measured(sweep, member)) for member in sweep.having(State.done)]
        if not done:
            return "No member trained to its end."
        member, value = max(done, key=lambda pair: self.sign * pair[1])
        chosen = " ".join(f"{key}={value}" for key, value in member.swept.items())
        return f"Best: {chosen}, with {self.config.objective} {value:.4g} ({self.config.direction})."

    @property
    def sign(self) -> int:
        return 1 if self.config.direction is Direction.maximize else -1

    def objective(self, sweep: Sweep, member: Member) -> float | None:
        """Return a member's objective; None if it is not measured yet."""
        if self.config.objective in AT_THE_END:
            folder = sweep.folder(member)
            return figures(folder, read_rows(folder / METRICS))[self.config.objective]
        value = next(reversed(self.curve(sweep, member).values()), None)
        return None if value is None else self.sign * value

    def measured(self, sweep: Sweep, member: Member) -> float:
        """Return the objective of a member that trained to its end. Raises RunError if it has none."""
        value = self.objective(sweep, member)
        if value is None:
            metrics = {name for row in read_rows(sweep.folder(member) / METRICS) for name in row}
            known = ", ".join(sorted({*AT_THE_END, *METRIC_OF, *metrics}))
            raise RunError(
                f"sweep.objective={self.config.objective}: member {member.name} has ended and never measured it; the "
                f"same command with another one continues the sweep; known are {known}"
            )
        return value

    def curve(self, sweep: Sweep, member: Member) -> Curve:
        """Return a member's objective by training steps taken, each the mean over the last steps; more is better."""
        if member.name in self.ended:
            return self.ended[member.name]
        name = METRIC_OF.get(self.config.objective, self.config.objective)
        rows = [row for row in read_rows(sweep.folder(member) / METRICS) if row.get(name) is not None]
        curve = {}
        for index, row in enumerate(rows):
            near = rows[max(index - LAST_STEPS + 1, 0) : index + 1]
            recent = [other[name] for other in near if other["step"] > row["step"] - LAST_STEPS]
            curve[row["step"] + 1] = self.sign * sum(recent) / len(recent)
        if member.state in (State.done, State.failed):
            self.ended[member.name] = curve
        return curve

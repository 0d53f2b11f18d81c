"""Choice of prompts by the policy's success at them.

A choice follows from the groups that were handed over before it, in submission order, never from which engine was
faster: a run and its continuation choose the same prompts. With `stream.max_staleness` above 0 prompts are chosen that
many steps ahead, without the groups still in flight.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import xxhash

from rlhf.data.order import PromptOrder
from rlhf.types import Group, InputError, Prompt, Score


@dataclass(kw_only=True, slots=True)
class CurriculumConfig:
    """Rest for solved prompts, and preference for prompts of medium difficulty. Off unless a key is set."""

    rest_after: int | None = None
    """Groups of a prompt in a row, all of whose rollouts are successes, after which the prompt rests. None: none
    rests."""
    rest_epochs: int = 1
    """Epochs of its set that a solved prompt is left out of; fewer if the whole set rests."""
    lowest: float = 0.0
    """Pass rate below which a prompt is too hard, and drawn with probability `keep_outside`."""
    highest: float = 1.0
    """Pass rate above which a prompt is too easy, and drawn with probability `keep_outside`."""
    keep_outside: float = 0.1
    """Probability with which a prompt too hard or too easy is drawn in an epoch, so that its pass rate stays known."""
    memory: float = 0.5
    """Weight of the pass rate so far when a group's is added. 0: the last group alone counts."""
    threshold: float = 1.0
    """Reward from which a rollout counts as a success."""
    part: str | None = None
    """The part of the reward that must reach the threshold: a function's name, or `reward_model`. None: the whole."""

    def __post_init__(self) -> None:
        for name in ("rest_after", "rest_epochs"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"curriculum.{name}={value}: give at least 1")
        if not 0 <= self.lowest <= self.highest <= 1:
            raise InputError(
                f"curriculum.lowest={self.lowest}, curriculum.highest={self.highest}: give pass rates from 0 to 1, the "
                "lower one first"
            )
        if not (0 <= self.keep_outside <= 1 and 0 <= self.memory < 1):
            raise InputError(
                f"curriculum.keep_outside={self.keep_outside}, curriculum.memory={self.memory}: give a probability, "
                "and a weight of at least 0 and less than 1"
            )

    @property
    def is_on(self) -> bool:
        return self.rest_after is not None or (self.lowest, self.highest) != (0.0, 1.0)


@dataclass(slots=True, kw_only=True)
class Record:
    """Success of the policy at a prompt."""

    pass_rate: float
    """Running mean over the prompt's groups."""
    solved: int
    """Number of its last groups in a row whose every rollout is a success."""
    epoch: int
    """Epoch of its last group."""


@dataclass(slots=True)
class Curriculum:
    """Prompts of an order, some of which are skipped.

    Each position takes from the set that the order says, so sets keep their shares. Within a set prompts come in the
    order's own order; if all of a set would be skipped, the next one is taken.
    """

    order: PromptOrder
    config: CurriculumConfig
    records: dict[str, Record] = field(default_factory=dict, init=False)
    places: dict[str, int] = field(init=False)
    """Place in the order of each set from which the next choice begins."""
    chosen: dict[int, tuple[str, int]] = field(default_factory=dict, init=False)
    """Set and place of each position in flight."""
    num_skipped: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        self.places = dict.fromkeys(self.order.sets, 0)

    def prompt_at(self, position: int) -> tuple[int, Prompt]:
        """Return the epoch and the prompt at `position`; chosen at the first call, remembered until `observe`."""
        if position not in self.chosen:
            name, _ = self.order.slot_at(position)
            self.chosen[position] = name, self.choose(name)
        name, place = self.chosen[position]
        return self.order.epoch_of(name, place), self.order.prompt_of(name, place)

    def choose(self, name: str) -> int:
        """Return the next place of a set whose prompt is not skipped."""
        first = self.places[name]
        places = range(first, first + len(self.order.sets[name]))
        place = next((place for place in places if self.is_wanted(name, place)), first)
        self.num_skipped += place - first
        self.places[name] = place + 1
        return place

    def is_wanted(self, name: str, place: int) -> bool:
        prompt, epoch, config = self.order.prompt_of(name, place), self.order.epoch_of(name, place), self.config
        record = self.records.get(prompt.id)
        if record is None:
            return True
        is_solved = config.rest_after is not None and record.solved >= config.rest_after
        if is_solved and epoch <= record.epoch + config.rest_epochs:
            return False
        if config.lowest <= record.pass_rate <= config.highest:
            return True
        coin = xxhash.xxh3_64_intdigest(f"{self.order.seed}/{prompt.id}/{epoch}/curriculum".encode())
        return coin < config.keep_outside * 2**64

    def observe(self, position: int, group: Group) -> None:
        """Add the success of a group that is handed over; one without any reward changes nothing."""
        name, place = self.chosen.pop(position)
        scores = [info.score for info in group.infos if isinstance(info.score, Score) and info.trained]
        if not scores:
            return
        pass_rate = float(np.mean([self.value_of(score) >= self.config.threshold for score in scores]))
        record = self.records.get(group.prompt.id)
        weight = self.config.memory if record else 0.0
        self.records[group.prompt.id] = Record(
            pass_rate=weight * (record.pass_rate if record else 0.0) + (1 - weight) * pass_rate,
            solved=(record.solved if record else 0) + 1 if pass_rate == 1 else 0,
            epoch=self.order.epoch_of(name, place),
        )

    def value_of(self, score: Score) -> float:
        """Return the score, or the part of it that must reach the threshold; without that part 0."""
        return score.value if self.config.part is None else score.parts.get(self.config.part, 0.0)

    def figures(self) -> dict[str, float]:
        """Return metrics: prompts with a pass rate, their mean, and the number of prompts skipped so far."""
        rates = [record.pass_rate for record in self.records.values()]
        return {
            "curriculum/measured": float(len(rates)),
            "curriculum/pass_rate": float(np.mean(rates)) if rates else 0.0,
            "curriculum/skipped": float(self.num_skipped),
        }

    def state(self) -> dict[str, Any]:
        """Return what a continued run needs; JSON keeps every number exactly."""
        return {
            "records": {prompt_id: asdict(record) for prompt_id, record in self.records.items()},
            "places": dict(self.places),
            "chosen": {str(position): list(chosen) for position, chosen in self.chosen.items()},
            "num_skipped": self.num_skipped,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        self.records = {prompt_id: Record(**record) for prompt_id, record in state["records"].items()}
        self.places = dict(state["places"])
        self.chosen = {int(position): (name, place) for position, (name, place) in state["chosen"].items()}
        self.num_skipped = state["num_skipped"]

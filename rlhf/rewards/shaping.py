"""Shaping of rewards before a method learns from them, and constraints on parts of them.

    raw reward -> length penalty -> overlong punishment -> clipping -> normalisation -> constraints -> learnt from

Groups are shaped in submission order, on the driver: running statistics and multipliers do not depend on which engine
was faster, and are saved with a checkpoint. Validation and the curriculum see the raw reward.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from omegaconf import MISSING

from rlhf.ops.overlong import soft_overlong_penalty
from rlhf.types import EpisodeInfo, Group, InputError, RunError, Score

PREFIX = "shaping/"
"""Beginning of the parts of a score that hold its value after each step of shaping."""


@dataclass(kw_only=True, slots=True)
class ShapingConfig:
    """Changes of the reward that is learnt from; none unless a key is set."""

    length_penalty: float = 0.0
    """Reward subtracted per token that the policy chose."""
    overlong_buffer: int | None = None
    """Tokens before the longest completion over which a punishment grows from 0 to `overlong_weight` (DAPO, Yu et al.
    2025, eq. 13). None: no punishment."""
    overlong_weight: float = 1.0
    """Punishment of a completion of the greatest length."""
    lowest: float | None = None
    """Rewards below are raised to this value. None: not."""
    highest: float | None = None
    """Rewards above are lowered to this value. None: not."""
    normalise: bool = False
    """Subtract the mean and divide by the standard deviation of all rewards of the training so far, by prompt set."""

    def __post_init__(self) -> None:
        for name in ("length_penalty", "overlong_weight"):
            if not 0 <= getattr(self, name) < math.inf:
                raise InputError(f"reward.shaping.{name}={getattr(self, name)}: give 0 or more; it is subtracted")
        if self.overlong_buffer is not None and self.overlong_buffer < 0:
            raise InputError(f"reward.shaping.overlong_buffer={self.overlong_buffer}: give 0 or more tokens, or null")
        if self.lowest is not None and self.highest is not None and self.lowest >= self.highest:
            raise InputError(
                f"reward.shaping.lowest={self.lowest}, reward.shaping.highest={self.highest}: all rewards would be "
                "equal; give the lower one first"
            )

    @property
    def is_on(self) -> bool:
        return self != ShapingConfig()


@dataclass(kw_only=True, slots=True)
class ConstraintConfig:
    """Bound on the mean of a part of the reward, such as a cost, held by a Lagrange multiplier (Ray et al. 2019; Safe
    RLHF, Dai et al. 2024)."""

    at_most: float = MISSING
    """Largest mean of the part."""
    lr: float = 0.05
    """Change of the multiplier per step and unit of excess over `at_most`."""
    start: float = 0.0
    """Multiplier at the start."""

    def __post_init__(self) -> None:
        if not (0 < self.lr < math.inf and 0 <= self.start < math.inf):
            raise InputError(
                f"reward.constraints: lr={self.lr}, start={self.start}: give a positive learning rate, and a "
                "multiplier of 0 or more"
            )


@dataclass(slots=True)
class Running:
    """Number, mean and sum of squared deviations of the values so far (Welford 1962)."""

    number: int = 0
    mean: float = 0.0
    squares: float = 0.0

    def add(self, value: float) -> None:
        self.number += 1
        before = value - self.mean
        self.mean += before / self.number
        self.squares += before * (value - self.mean)

    def normalise(self, value: float) -> float:
        """Return the deviation from the mean in standard deviations; undivided while all values are equal."""
        return (value - self.mean) / (math.sqrt(self.squares / self.number) or 1.0)


@dataclass(slots=True)
class Shaping:
    """Shapes the rewards of groups in their order."""

    config: ShapingConfig
    constraints: Mapping[str, ConstraintConfig]
    max_tokens: int
    """Longest completion of a prompt without a limit of its own."""
    running: dict[str, Running] = field(default_factory=dict, init=False)
    """Statistics of the rewards of each prompt set."""
    multipliers: dict[str, float] = field(init=False)
    costs: dict[str, list[float]] = field(init=False)
    """Values of each constrained part in this step."""
    noted: dict[str, float] = field(default_factory=dict, init=False)
    """Metrics of the last step: multiplier and mean of each constrained part."""

    def __post_init__(self) -> None:
        self.multipliers = {name: each.start for name, each in self.constraints.items()}
        self.costs = {name: [] for name in self.constraints}

    def shape(self, group: Group) -> Group:
        """Return the group with shaped scores; the values on the way to them are among their parts."""
        longest = group.prompt.max_tokens or self.max_tokens
        scores = [self.bounded(info, longest) for info in group.infos]
        if self.config.normalise:
            scores = self.normalised(group.prompt.data_set, scores)
        infos = [
            info if score is None else replace(info, score=self.constrained(score, counts=info.trained))
            for info, score in zip(group.infos, scores, strict=True)
        ]
        return replace(group, infos=infos)

    def bounded(self, info: EpisodeInfo, longest: int) -> Score | None:
        """Return the score after penalties and clipping; None for a failure."""
        if not isinstance(info.score, Score):
            return None
        config, tokens = self.config, info.num_loss_tokens
        score = stepped(info.score, "raw", info.score.value)
        if config.length_penalty:
            score = stepped(score, "length", score.value - config.length_penalty * tokens)
        if config.overlong_buffer is not None:
            penalty = soft_overlong_penalty(tokens, max_tokens=longest, buffer_tokens=config.overlong_buffer)
            score = stepped(score, "overlong", score.value + config.overlong_weight * penalty)
        if config.lowest is not None and score.value < config.lowest:
            score = replace(score, value=config.lowest)
        if config.highest is not None and score.value > config.highest:
            score = replace(score, value=config.highest)
        is_clipped = config.lowest is not None or config.highest is not None
        return stepped(score, "clipped", score.value) if is_clipped else score

    def normalised(self, data_set: str, scores: list[Score | None]) -> list[Score | None]:
        """Return the scores after normalisation by the rewards of the set so far, these included."""
        running = self.running.setdefault(data_set, Running())
        for score in scores:
            if score is not None:
                running.add(score.value)
        return [score and stepped(score, "normalised", running.normalise(score.value)) for score in scores]

    def constrained(self, score: Score, *, counts: bool) -> Score:
        """Return the score less its costs, each times its multiplier, over 1 + the sum of the multipliers, which keeps
        the scale (Dai et al. 2024). A score without a constrained part has no such cost. `counts`: its costs are among
        those that move the multipliers."""
        if not self.constraints:
            return score
        total = 0.0
        for name, multiplier in self.multipliers.items():
            if name in score.parts:
                self.costs[name] += [score.parts[name]] if counts else []
                total += multiplier * score.parts[name]
        return stepped(score, "constrained", (score.value - total) / (1 + sum(self.multipliers.values())))

    def end_step(self, *, has_sets: bool) -> None:
        """Update each multiplier, once per step, by the mean of its part over the step's episodes, replaced ones
        included. Without the part it stays. Raises RunError if that is so though the run has one prompt set."""
        self.noted = {}
        for name, config in self.constraints.items():
            costs, self.costs[name] = self.costs[name], []
            self.noted[f"constraint/{name}/multiplier"] = self.multipliers[name]
            if costs:
                mean = math.fsum(costs) / len(costs)
                self.noted[f"constraint/{name}/mean"] = mean
                self.multipliers[name] = max(0.0, self.multipliers[name] + config.lr * (mean - config.at_most))
            elif not has_sets:
                raise RunError(
                    f"reward.constraints.{name}: no episode of this step has a part of that name; name one that the "
                    "environment gives, and start another run"
                )

    def figures(self) -> dict[str, float]:
        return dict(self.noted)

    def state(self) -> dict[str, Any]:
        """Return what a continued run needs; JSON keeps every number exactly."""
        running = {name: [each.number, each.mean, each.squares] for name, each in self.running.items()}
        return {"running": running, "multipliers": dict(self.multipliers)}

    def restore(self, state: Mapping[str, Any]) -> None:
        self.running = {name: Running(*each) for name, each in state["running"].items()}
        self.multipliers = dict(state["multipliers"])


def stepped(score: Score, step: str, value: float) -> Score:
    """Return the score with another value, which becomes a part under the name of the step."""
    return Score(value=value, parts={**score.parts, f"{PREFIX}{step}": value})

"""The interface of a reward, its configuration, and the sum of several."""

from __future__ import annotations

import math
import numbers
import reprlib
import traceback
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import numpy as np

from rlhf.judges.config import JudgeConfig
from rlhf.rewards.lookup import find_rewards
from rlhf.rewards.shaping import ConstraintConfig, ShapingConfig
from rlhf.types import Failure, InputError, Prompt, Rollout, Score

Reward = Callable[..., Score | Failure | float | int | bool]
"""`(prompt: Prompt, rollout: Rollout, **options)`. Must not change either; any other return value is a Failure."""


class ModelInput(StrEnum):
    """Inputs of a reward model."""

    tokens = "tokens"
    text = "text"


@dataclass(kw_only=True, slots=True)
class RewardConfig:
    """The reward of a rollout: the weighted sum of functions, which run in processes that can be killed, of a reward
    model's score, and of a judge's rating."""

    functions: list[str] = field(default_factory=lambda: ["exact"])
    """Reward functions: short names (exact, format, http, length, math_verify, numeric), `package.module:function` or
    `/path/file.py:function`. Other keys and metrics use the name without the folder, `file.py:function`. A class is
    created with its options once per process, and its instances are called. May be empty with `model` or `judge`."""
    weights: list[float] | None = None
    """One finite factor per function. None: 1.0 each."""
    options: dict[str, Any] = field(default_factory=dict)
    """Keyword arguments by function name: `+reward.options.NAME.key=value`, as in
    `+reward.options.exact.ignore_case=true`; in a recipe, `{length: {max_tokens: 1024, buffer_tokens: 256}}`. NAME of
    `/path/file.py:function` is `function`. `http` needs `url`, and `tokenizer`, the model's folder
    (`reward=http reward.options.http.url=...` sets it)."""
    timeout_s: float = 10.0
    """Seconds for scoring one rollout by all functions together, without waiting and start-up."""
    num_processes: int = 1
    """Parallel reward processes per engine. One suffices unless functions take milliseconds or more."""
    max_attempts: int = 2
    """Largest number of attempts at scoring a rollout whose reward raises, crashes or times out. 1: no retry."""
    model: str | None = None
    """Folder or Hub id of a reward model, a sequence classifier with one label, which has its own workers
    (`placement.reward`). None: no reward model."""
    ensemble: list[str] = field(default_factory=list)
    """Folders or Hub ids of further reward models on the same workers; the score is the mean over `model` and these."""
    pessimism: float = 0.0
    """Number of standard deviations over the models that is subtracted from their mean (Coste et al. 2023), so that a
    policy gains nothing where the models disagree. 0: the mean."""
    model_weight: float = 1.0
    """Factor of the reward model's score."""
    model_input: ModelInput = ModelInput.tokens
    """`tokens`: the model reads the rollout's token ids; its vocabulary must be the policy's. `text`: it reads the
    dialogue through its own tokenizer and chat template, or, without a template (encoders), prompt and answer as a
    pair."""
    model_max_tokens: int = 16384
    """Tokens of a forward pass of the reward model, padding included."""
    model_timeout_s: float = 120.0
    """Seconds that a call of the reward model may take, including the wait for other callers."""

    judge: JudgeConfig = field(default_factory=JudgeConfig)
    """Language model behind an endpoint that rates answers, from 0 to 1."""
    judge_weight: float = 1.0
    """Factor of the judge's rating."""
    shaping: ShapingConfig = field(default_factory=ShapingConfig)
    """Changes of the reward before it is learnt from."""
    constraints: dict[str, ConstraintConfig] = field(default_factory=dict)
    """Bounds on the means of parts of the reward, by the part's name: a function, which may have weight 0,
    `reward_model` or `judge`, as in `+reward.constraints={harm: {at_most: 0.1}}`."""

    def __post_init__(self) -> None:
        if not self.functions and self.model is None and self.judge.url is None:
            raise InputError(
                "reward.functions is empty: name at least one, such as exact, or set reward.model or reward.judge.url"
            )
        if self.judge.url is None and (self.judge != JudgeConfig() or self.judge_weight != 1.0):
            raise InputError("reward.judge.url is not set, other keys of reward.judge are: set it, or leave them out")
        if self.weights is not None and len(self.weights) != len(self.functions):
            raise InputError(
                f"reward.weights has {len(self.weights)} values for {len(self.functions)} functions "
                f"({', '.join(self.functions)}): give one per function, or null for 1.0 each"
            )
        for weight in self.weights or ():
            if not math.isfinite(weight):
                raise InputError(f"reward.weights holds {weight}: give finite numbers")
        if self.ensemble and self.model is None:
            raise InputError(f"reward.ensemble has {self.ensemble[0]}: set reward.model to one of them")
        if not 0 <= self.pessimism < math.inf or (self.pessimism and not self.ensemble):
            raise InputError(
                f"reward.pessimism={self.pessimism}: give 0 or more standard deviations, and models in reward.ensemble"
            )
        for key in ("model_weight", "judge_weight"):
            if not math.isfinite(getattr(self, key)):
                raise InputError(f"reward.{key} is {getattr(self, key)}: give a finite number")
        for key in ("timeout_s", "model_timeout_s"):
            if not 0 < getattr(self, key) < math.inf:
                raise InputError(f"reward.{key} is {getattr(self, key)}: give a positive number of seconds")
        for key in ("num_processes", "max_attempts", "model_max_tokens"):
            if getattr(self, key) < 1:
                raise InputError(f"reward.{key} is {getattr(self, key)}: give at least 1")


def load_reward(config: RewardConfig) -> Callable[[Prompt, Rollout], Score | Failure]:
    """Return the weighted sum of the configured functions, or of those that a prompt's set names, to be called in this
    process, without protection from hangs.

    `Score.parts` holds each function's value by name, unweighted, and the parts of a returned Score as `name/part`.
    The first function that fails makes the whole a Failure. Raises InputError if a function cannot be loaded.
    """
    rewards: dict[str, Reward] = find_rewards(config.functions, config.options)
    weights = dict(zip(rewards, config.weights or [1.0] * len(rewards), strict=True))

    def score(prompt: Prompt, rollout: Rollout) -> Score | Failure:
        parts: dict[str, float] = {}
        chosen = weights if prompt.reward_weights is None else own_weights(prompt.reward_weights, rewards)
        for name in chosen:
            result = _call(name, rewards[name], prompt, rollout)
            if isinstance(result, Failure):
                return result
            parts.update(result)
        value = sum((weight * parts[name] for name, weight in chosen.items()), 0.0)
        if not math.isfinite(value):
            return Failure(kind="reward_invalid", message=f"reward {' + '.join(chosen)}: the weighted sum is {value}")
        return Score(value=value, parts=parts)

    return score


def own_weights(reward_weights: Mapping[str, float], known: Collection[str]) -> dict[str, float]:
    """Return the weights of a set's reward functions; a reward model's is none of theirs."""
    return {name: weight for name, weight in reward_weights.items() if name in known}


def _call(name: str, reward: Reward, prompt: Prompt, rollout: Rollout) -> Mapping[str, float] | Failure:
    """Return the parts that one function contributes: its value under its name, a Score's parts under `name/part`."""
    try:
        result: Any = reward(prompt, rollout)
        if isinstance(result, Failure):
            return Failure(kind=str(result.kind), message=f"reward {name}: {result.message}")
        parts = {f"{name}/{part}": value for part, value in result.parts.items()} if isinstance(result, Score) else {}
        parts[name] = result.value if isinstance(result, Score) else result
        for part, value in parts.items():
            number = finite_number(value)
            if number is None:
                returned = f"{reprlib.repr(value)} ({type(value).__name__})"
                return Failure(kind="reward_invalid", message=f"reward {part} returned {returned}, not a finite number")
            parts[part] = number
        return parts
    except Exception as error:  # noqa: BLE001  user code: any error is a Failure
        return Failure(kind="reward_error", message=f"reward {name}: {describe(error)}")


def finite_number(value: Any) -> float | None:
    """Return the value as a float; None if it is not a number, not finite, or too large for a float."""
    if not isinstance(value, numbers.Real | np.bool_):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def describe(error: BaseException) -> str:
    """Format type, text and innermost line of an exception: `ZeroDivisionError: division by zero (reward.py:3)`."""
    text = "".join(traceback.format_exception_only(error)).strip()
    text = text if len(text) <= 1000 else f"{text[:1000]}..."
    frames = traceback.extract_tb(error.__traceback__)
    return f"{text} ({frames[-1].filename}:{frames[-1].lineno})" if frames else text

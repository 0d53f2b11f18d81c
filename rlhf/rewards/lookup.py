"""Lookup of the rewards that a configuration names, by short name, module or file."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from rlhf.lookup import find_function
from rlhf.types import InputError

SHORT_NAMES = {
    "exact": "rlhf.rewards.exact:exact",
    "format": "rlhf.rewards.format:format",
    "http": "rlhf.rewards.http:HttpReward",
    "length": "rlhf.rewards.length:length",
    "math_verify": "rlhf.rewards.math:math_verify",
    "numeric": "rlhf.rewards.numeric:numeric",
}


def find_reward(spec: str, options: Mapping[str, Any]) -> tuple[str, Callable[..., Any]]:
    """The name of a function in the config, and the function with its options bound. Raises InputError."""
    place, _, attribute = SHORT_NAMES.get(spec, spec).rpartition(":")
    if not place or not attribute:
        raise InputError(
            f"reward.functions has '{spec}', which is no reward: use one of {', '.join(SHORT_NAMES)}, "
            "package.module:function or /path/file.py:function"
        )
    function = find_function("reward.functions", f"{place}:{attribute}")
    name = f"{Path(place).name}:{attribute}" if place.endswith(".py") else spec
    return name, _bind(name, function, options.get(name, {}))


def _bind(name: str, function: Callable[..., Any], options: Any) -> Callable[..., Any]:
    """The function with its options, once it is sure that `function(prompt, rollout, **options)` is a call it takes.

    A class is made with its options, once per process; its instance is then called with prompt and rollout.
    """
    if not isinstance(options, Mapping):
        raise InputError(f"reward.options.{name} is {options!r}: give keyword arguments, such as {{key: value}}")
    is_class = inspect.isclass(function)
    given = () if is_class else ("prompt", "rollout")
    try:
        signature = inspect.signature(function)
    except ValueError as error:
        raise InputError(f"reward {name} has no signature ({error}): wrap it in a Python function") from error
    try:
        signature.bind(*given, **options)
    except TypeError as error:
        accepted = ", ".join(list(signature.parameters)[len(given) :]) or "none"
        raise InputError(
            f"reward {name} cannot be called as {name}({', '.join([*given, f'**reward.options.{name}'])}): {error}; "
            f"its options: {accepted}"
        ) from error
    return _make(name, function, options) if is_class else partial(function, **options)


def _make(name: str, reward_class: Callable[..., Any], options: Mapping[str, Any]) -> Callable[..., Any]:
    try:
        reward = reward_class(**options)
    except InputError:
        raise
    except Exception as error:
        raise InputError(
            f"reward {name} cannot be made from reward.options.{name}, {type(error).__name__}: {error}: correct them, "
            "or the class"
        ) from error
    if not callable(reward):
        raise InputError(f"reward {name} is a class without __call__(self, prompt, rollout): write that method")
    return reward

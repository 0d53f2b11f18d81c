"""Lookup of the rewards that a configuration names, by short name, module or file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from rlhf.lookup import bind_options, find_named

SHORT_NAMES = {
    "exact": "rlhf.rewards.exact:exact",
    "format": "rlhf.rewards.format:format",
    "http": "rlhf.rewards.http:HttpReward",
    "length": "rlhf.rewards.length:length",
    "math_verify": "rlhf.rewards.math:math_verify",
    "numeric": "rlhf.rewards.numeric:numeric",
}
GIVEN = ("prompt", "rollout")


def find_reward(spec: str, options: Mapping[str, Any]) -> tuple[str, Callable[..., Any]]:
    """The name of a function in the config, and the function with its options bound. Raises InputError."""
    refusal = f"reward.functions has '{spec}', which is no reward: use one of"
    name, function = find_named("reward.functions", spec, SHORT_NAMES, refusal)
    bound = bind_options("reward", name, function, GIVEN, f"reward.options.{name}", options.get(name, {}))
    return name, bound

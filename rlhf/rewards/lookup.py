"""Lookup of the rewards that a configuration names, by short name, module or file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from rlhf.lookup import bind_options, find_named, without_folder
from rlhf.types import InputError

SHORT_NAMES = {
    "exact": "rlhf.rewards.exact:exact",
    "format": "rlhf.rewards.format:format",
    "http": "rlhf.rewards.http:HttpReward",
    "length": "rlhf.rewards.length:length",
    "math_verify": "rlhf.rewards.math:math_verify",
    "numeric": "rlhf.rewards.numeric:numeric",
}
GIVEN = ("prompt", "rollout")


def find_rewards(specs: Sequence[str], options: Mapping[str, Any]) -> dict[str, Callable[..., Any]]:
    """Return the functions of a configuration by name, with their options bound. Raises InputError."""
    functions: dict[str, Callable[..., Any]] = {}
    for spec in specs:
        refusal = f"reward.functions has '{spec}', which is no reward: use one of"
        name, function = find_named("reward.functions", spec, SHORT_NAMES, refusal)
        if name in functions:
            raise InputError(f"reward.functions names {name} twice: give functions of different names")
        functions[name] = function
    keys = {name: own_name(name) for name in functions}
    given: dict[str, Any] = {}
    for key, value in options.items():
        name = reward_of(key, functions)
        if name in given:
            raise InputError(f"reward.options has {name} twice, as '{keys[name]}' and as '{key}': give one of them")
        keys[name], given[name] = key, value
    return {
        name: bind_options("reward", name, function, GIVEN, f"reward.options.{keys[name]}", given.get(name, {}))
        for name, function in functions.items()
    }


def own_name(name: str) -> str:
    """Return a function's name without its file or module: a command line takes no `:` or further `.` in a key."""
    return name.rpartition(":")[2]


def by_own_names(specs: Iterable[str], options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options by the functions' own names, except where two functions have the same."""
    owners = Counter(own_name(without_folder(spec)) for spec in specs)
    return {own_name(key) if owners[own_name(key)] == 1 else key: value for key, value in options.items()}


def reward_of(key: str, names: Iterable[str]) -> str:
    """Return the function that a key of `reward.options` names, in full or without its file or module."""
    meant = [key] if key in names else [name for name in names if own_name(name) == key]
    if len(meant) > 1:
        raise InputError(
            f"reward.options has '{key}', which {' and '.join(meant)} are called: rename one, or give the options in a "
            f'recipe, as in {{"{meant[0]}": {{NAME: VALUE}}}}'
        )
    if not meant:
        raise InputError(f"reward.options has '{key}', which is not among reward.functions ({', '.join(names)})")
    return meant[0]

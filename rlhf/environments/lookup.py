"""Lookup of the environment that a config names."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from rlhf.environments.base import Environment
from rlhf.lookup import bind_options, find_named
from rlhf.types import InputError

SHORT_NAMES = {"single_turn": "rlhf.environments.single_turn:single_turn"}
GIVEN = ("prompt", "sampler", "sampling")


def find_environment(spec: str, options: Mapping[str, Any]) -> Environment:
    """The environment with its options bound. Raises InputError."""
    refusal = f"environment={spec}: there is no environment of this name; use"
    name, function = find_named("environment", spec, SHORT_NAMES, refusal)
    environment = bind_options("environment", name, function, GIVEN, "environment_options", options)
    call = function.__call__ if inspect.isclass(function) else function
    if not inspect.iscoroutinefunction(call):
        raise InputError(
            f"environment {name} is no coroutine function: write it as `async def`, and await sampler.generate or act"
        )
    return environment

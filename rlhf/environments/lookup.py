"""Lookup of the environment that a config names."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rlhf.environments.base import Environment
from rlhf.lookup import bind_options, find_function
from rlhf.types import InputError

SHORT_NAMES = {"single_turn": "rlhf.environments.single_turn:single_turn"}
GIVEN = ("prompt", "sampler", "sampling")


def find_environment(spec: str, options: Mapping[str, Any]) -> Environment:
    """The environment with its options bound. Raises InputError."""
    place, _, attribute = SHORT_NAMES.get(spec, spec).rpartition(":")
    if not place or not attribute:
        raise InputError(
            f"environment={spec}: there is no environment of this name; use {', '.join(SHORT_NAMES)}, "
            "package.module:function or /path/file.py:function"
        )
    name = f"{Path(place).name}:{attribute}" if place.endswith(".py") else spec
    function = find_function("environment", f"{place}:{attribute}")
    environment = bind_options("environment", name, function, GIVEN, "environment_options", options)
    call = function.__call__ if inspect.isclass(function) else function
    if not inspect.iscoroutinefunction(call):
        raise InputError(
            f"environment {name} is no coroutine function: write it as `async def`, and await sampler.generate or act"
        )
    return environment

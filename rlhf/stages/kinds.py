"""The kinds of stages a pipeline can have."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from rlhf.config import CompareConfig, OnlineConfig
from rlhf.offline_config import PreferenceRunConfig, RewardModelRunConfig, SFTRunConfig
from rlhf.train.pipeline import FunctionConfig
from rlhf.train.run_folder import MODEL

FILES, REPORT = "files", "report"
"""Where in a stage's folder is what it made, where that is no model."""


@dataclass(frozen=True, slots=True)
class Kind:
    """How a stage is configured and run. What runs it is imported then: that takes seconds."""

    config_name: str
    schema: type[Any]
    run: str
    """`module:function` of a configuration; it commits an artifact, or with `dry_run` only checks."""
    plan: str | None
    """`module:function` of a configuration: the accelerators it takes. None: none."""
    made: str = MODEL
    """Where in its folder is what other stages get."""


KINDS = {
    "function": Kind("function_schema", FunctionConfig, "rlhf.stages.function:run", None, FILES),
    "sft": Kind("sft", SFTRunConfig, "rlhf.stages.sft:run", "rlhf.stages.offline:plan_ranks"),
    "reward_model": Kind(
        "reward_model", RewardModelRunConfig, "rlhf.stages.reward_model:run", "rlhf.stages.offline:plan_ranks"
    ),
    "preference": Kind("dpo", PreferenceRunConfig, "rlhf.stages.preference:run", "rlhf.stages.offline:plan_ranks"),
    "ppo": Kind("online", OnlineConfig, "rlhf.stages.online:run", "rlhf.stages.job:plan_roles"),
    "compare": Kind("compare", CompareConfig, "rlhf.stages.compare:run", "rlhf.stages.compare:plan_roles", REPORT),
}


def load(place: str) -> Callable[[Any], Any]:
    module, _, name = place.partition(":")
    function: Callable[[Any], Any] = getattr(importlib.import_module(module), name)
    return function

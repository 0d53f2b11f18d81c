"""The kinds of stages a pipeline can have."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from rlhf.config import CompareConfig, OnlineConfig
from rlhf.evaluation_config import EvaluationConfig
from rlhf.offline_config import PreferenceRunConfig, RewardModelRunConfig, SFTRunConfig
from rlhf.pipelines.config import FunctionConfig
from rlhf.train.run_folder import MODEL, REPORT

FILES = "files"
"""Subfolder of a function stage with the files that the function wrote."""


@dataclass(frozen=True, slots=True)
class Kind:
    """Configuration and function of a kind of stage. The function is imported only when it runs, since that takes
    seconds."""

    config_name: str
    schema: type[Any]
    run: str
    """`module:function`, called with the configuration; commits an artifact, or with `dry_run` only checks."""
    plan: str | None
    """`module:function`, called with the configuration; returns the accelerators it takes. None: it takes none."""
    artifact: str = MODEL
    """Path of the artifact in the stage's folder."""


OFFLINE, ONLINE, EVALUATION = "rlhf.stages.offline", "rlhf.stages.online", "rlhf.stages.evaluation"
PLAN_RANKS = f"{OFFLINE}.run:plan_ranks"
KINDS = {
    "function": Kind("function_schema", FunctionConfig, "rlhf.pipelines.function_stage:run", None, FILES),
    "sft": Kind("sft", SFTRunConfig, f"{OFFLINE}.sft:run", PLAN_RANKS),
    "reward_model": Kind("reward_model", RewardModelRunConfig, f"{OFFLINE}.reward_model:run", PLAN_RANKS),
    "preference": Kind("preference", PreferenceRunConfig, f"{OFFLINE}.preference:run", PLAN_RANKS),
    "online": Kind("online", OnlineConfig, f"{ONLINE}.run:run", f"{ONLINE}.job:plan_roles"),
    "evaluate": Kind("evaluate", EvaluationConfig, f"{EVALUATION}.run:run", f"{EVALUATION}.models:plan_roles", REPORT),
    "compare": Kind("compare", CompareConfig, f"{ONLINE}.compare:run", f"{ONLINE}.compare:plan_roles", REPORT),
}


def load(place: str) -> Callable[[Any], Any]:
    module, _, name = place.partition(":")
    function: Callable[[Any], Any] = getattr(importlib.import_module(module), name)
    return function

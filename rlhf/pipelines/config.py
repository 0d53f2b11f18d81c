"""The configuration of a pipeline, and the order of its stages."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from graphlib import CycleError, TopologicalSorter
from typing import Any

from omegaconf import MISSING

from rlhf.config import add_schema
from rlhf.types import InputError

REPLACED = "replaced"
"""Folder inside the pipeline's for artifacts of other inputs; no stage may have this name."""
NAME = re.compile(r"\w[\w-]*", re.ASCII)


@dataclass(kw_only=True, slots=True)
class StageConfig:
    """A stage: the kind of run, its configuration, and its inputs."""

    kind: str = MISSING
    """Kind of the stage: `function`, `sft`, `reward_model`, `preference`, `online`, `compare` or `evaluate`."""
    overrides: list[str] = field(default_factory=list)
    """Configuration of the stage, as on the command line: `[experiment=tiny_sft, seed=1]`."""
    needs: dict[str, str] = field(default_factory=dict)
    """Keys of its configuration that are folders of other stages, `{model: sft}`, or files in them,
    `{data.path: words/train.jsonl}`."""
    after: list[str] = field(default_factory=list)
    """Names of further stages that come first. A stage that needs an evaluation, or comes after one, runs only if its
    gate passes."""


@dataclass(kw_only=True, slots=True)
class PipelineConfig:
    """Stages from a base model to a report: `launch/pipeline.py`."""

    output: str = MISSING
    """Folder of the pipeline, with a subfolder for every stage. The same command continues it."""
    dry_run: bool = False
    """Show which stages would run, check what can be checked now, and stop."""
    stages: dict[str, StageConfig] = field(default_factory=dict)
    """The stages by name."""

    def __post_init__(self) -> None:
        if not self.stages:
            raise InputError("stages={}: the pipeline has no stages; choose a pipeline, as in pipeline=tiny")


@dataclass(kw_only=True, slots=True)
class FunctionConfig:
    """A stage that calls a user's function, which writes data or a model to start from."""

    function: str = MISSING
    """`package.module:function` or `/path/file.py:function`; it is called with the folder to write into, and
    `arguments`."""
    arguments: dict[str, Any] = field(default_factory=dict)
    """Keyword arguments of the function: `+arguments.NAME=value`."""
    output: str = MISSING
    """Folder of the stage."""
    dry_run: bool = False
    """Check that the function can be called with the arguments, and stop."""
    inputs: dict[str, str] = field(default_factory=dict)
    """sha256 of the inputs by key, set by `launch/pipeline.py`."""


add_schema("pipeline_schema", PipelineConfig, StageConfig)
add_schema("function_schema", FunctionConfig)


def in_order(stages: Mapping[str, StageConfig]) -> list[str]:
    """Return the names of the stages, each after the stages it needs. Raises InputError for an unknown stage, a name
    that cannot be a folder's, or a cycle."""
    for name, stage in stages.items():
        if not NAME.fullmatch(name) or name == REPLACED:
            raise InputError(f"stages.{name}: the name is also a folder's; use letters, digits, _ and -")
        for key, need in stage.needs.items():
            if need.partition("/")[0] not in stages:
                known = ", ".join(stages)
                raise InputError(f"stages.{name}.needs.{key}={need}: there is no such stage; known are {known}")
        for first in stage.after:
            if first not in stages:
                raise InputError(f"stages.{name}.after={first}: there is no such stage; known are {', '.join(stages)}")
    try:
        return list(TopologicalSorter({name: parents_of(stage) for name, stage in stages.items()}).static_order())
    except CycleError as error:
        cycle = " needs ".join(reversed(error.args[1]))
        raise InputError(
            f"stages: {cycle}: the stages need each other in a cycle; remove one `needs` or `after`"
        ) from None


def parents_of(stage: StageConfig) -> tuple[str, ...]:
    return tuple(dict.fromkeys([*(need.partition("/")[0] for need in stage.needs.values()), *stage.after]))

"""The configuration of a pipeline, and the order in which its stages are made."""

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
"""Folder below the pipeline's for what was made from other inputs; no stage has its name."""
NAME = re.compile(r"\w[\w-]*", re.ASCII)


@dataclass(kw_only=True, slots=True)
class StageConfig:
    """A stage: what kind of run, configured how, made from what."""

    kind: str = MISSING
    """Kind of the stage: `function`, `sft`, `reward_model`, `preference`, `online` or `compare`."""
    overrides: list[str] = field(default_factory=list)
    """Configuration of the stage as the command line takes it: `[experiment=tiny_sft, seed=1]`."""
    needs: dict[str, str] = field(default_factory=dict)
    """Keys of its configuration that are folders other stages make, `{model: sft}`, or files in there,
    `{data.path: words/train.jsonl}`."""


@dataclass(kw_only=True, slots=True)
class PipelineConfig:
    """Stages from a base model to a report: `launch/pipeline.py`."""

    output: str = MISSING
    """Folder of the pipeline, in which every stage has its own. The same command continues it."""
    dry_run: bool = False
    """Show what would be made, check what can be checked now, and stop."""
    stages: dict[str, StageConfig] = field(default_factory=dict)
    """The stages by name."""

    def __post_init__(self) -> None:
        if not self.stages:
            raise InputError("stages={}: there is nothing to make; choose a pipeline, as in pipeline=tiny")


@dataclass(kw_only=True, slots=True)
class FunctionConfig:
    """A stage that is a function of one's own: it makes data, or a model to start from."""

    function: str = MISSING
    """`package.module:function` or `/path/file.py:function`; it is given the folder to write into, and the
    arguments."""
    arguments: dict[str, Any] = field(default_factory=dict)
    """Keyword arguments of the function."""
    output: str = MISSING
    """Folder of the stage."""
    dry_run: bool = False
    """Look the function up, and stop."""
    inputs: dict[str, str] = field(default_factory=dict)
    """sha256 of what it is made from, by key: `launch/pipeline.py` fills it in."""


add_schema("pipeline_schema", PipelineConfig, StageConfig)
add_schema("function_schema", FunctionConfig)


def in_order(stages: Mapping[str, StageConfig]) -> list[str]:
    """Return the names, each after those it needs. Raises InputError if one is unknown or names no folder, or for a
    cycle."""
    for name, stage in stages.items():
        if not NAME.fullmatch(name) or name == REPLACED:
            raise InputError(f"stages.{name}: it names a folder; use letters, digits, _ and -")
        for key, need in stage.needs.items():
            if need.partition("/")[0] not in stages:
                known = ", ".join(stages)
                raise InputError(f"stages.{name}.needs.{key}={need}: there is no such stage; known are {known}")
    try:
        return list(TopologicalSorter({name: parents_of(stage) for name, stage in stages.items()}).static_order())
    except CycleError as error:
        cycle = " needs ".join(reversed(error.args[1]))
        raise InputError(f"stages: {cycle}: none of them can be the first; take one `needs` away") from None


def parents_of(stage: StageConfig) -> tuple[str, ...]:
    return tuple(dict.fromkeys(need.partition("/")[0] for need in stage.needs.values()))

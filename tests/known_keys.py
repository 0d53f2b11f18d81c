"""Every key that a command takes, for tests of what texts name."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Iterable, Iterator
from typing import Any

from rlhf.config import (
    ALGORITHMS,
    DATA,
    CompareConfig,
    OnlineConfig,
    PreferenceRunConfig,
    RewardModelRunConfig,
    SFTRunConfig,
)  # fmt: skip
from rlhf.evaluation_config import EvaluationConfig
from rlhf.pipelines.config import FunctionConfig, PipelineConfig
from rlhf.sweeps.config import SweepRunConfig
from serve.client import PowerConfig, StartConfig
from serve.config import ServeConfig
from serve.feedback.export import ExportRunConfig
from serve.feedback.forget import ForgetConfig
from serve.gateway.api_keys import AddConfig, RemoveConfig
from serve.releases.config import GuardrailConfig


def dataclass_in(annotation: Any) -> type[Any] | None:
    """Return `CriticConfig` of `CriticConfig | None`."""
    choices = typing.get_args(annotation) if isinstance(annotation, types.UnionType) else (annotation,)
    return next((choice for choice in choices if dataclasses.is_dataclass(choice)), None)


def keys_of(schema: type[Any], prefix: str = "") -> Iterator[str]:
    """Yield every key of a configuration; `reward.options.*` stands for whatever is in a free dictionary."""
    annotations = typing.get_type_hints(schema)
    for name in (declared.name for declared in dataclasses.fields(schema)):
        key, annotation = f"{prefix}{name}", annotations[name]
        yield key
        if typing.get_origin(annotation) is dict:
            yield f"{key}.*"
        elif nested := dataclass_in(annotation):
            yield from keys_of(nested, f"{key}.")


def keys_in(schemas: Iterable[type[Any]]) -> set[str]:
    return {key for schema in schemas for key in keys_of(schema)}


def exists(key: str, keys: set[str]) -> bool:
    return key in keys or any(known.endswith("*") and key.startswith(known[:-1]) for known in keys)


TRAINING_KEYS = keys_in((OnlineConfig, SFTRunConfig, RewardModelRunConfig, PreferenceRunConfig))
TRAINING_KEYS |= {f"data.{key}" for schema in DATA.values() for key in keys_of(schema)}
TRAINING_KEYS |= {f"algorithm.{key}" for schema in ALGORITHMS.values() for key in keys_of(schema)}
ALL_KEYS = TRAINING_KEYS | keys_in((CompareConfig, FunctionConfig, PipelineConfig, SweepRunConfig, ServeConfig))
ALL_KEYS |= keys_in((EvaluationConfig,))
ALL_KEYS |= keys_in((ExportRunConfig, ForgetConfig, AddConfig, RemoveConfig, PowerConfig, StartConfig, GuardrailConfig))

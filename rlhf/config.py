"""The configuration, composed from the owners' dataclasses."""

from __future__ import annotations

import dataclasses
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from omegaconf import MISSING, DictConfig, ListConfig, OmegaConf

from rlhf.algorithms.base import AlgorithmConfig, ScoreMethodConfig
from rlhf.algorithms.preference import PreferenceConfig
from rlhf.algorithms.registry import ALGORITHMS
from rlhf.config_classes import LOADED, OPEN_GROUPS
from rlhf.data.kto import KTODataConfig
from rlhf.data.preferences import PreferenceDataConfig, RankingDataConfig
from rlhf.data.prompts import NO_PATH, PromptDataConfig, PromptSetConfig
from rlhf.data.steps import StepDataConfig
from rlhf.data.supervised import SupervisedDataConfig
from rlhf.data.text import TextDataConfig
from rlhf.evaluation.suite import SuiteConfig
from rlhf.evaluation_config import EvaluationConfig
from rlhf.key_names import unknown_key, unknown_keys
from rlhf.lookup import spec_of
from rlhf.models.lora import LoRAConfig
from rlhf.offline_config import PreferenceRunConfig, RewardModelRunConfig, RunConfig, SFTRunConfig
from rlhf.overrides import as_overrides
from rlhf.paths import expand_home, is_path
from rlhf.rewards.base import RewardConfig
from rlhf.rewards.shaping import ConstraintConfig
from rlhf.runtimes.configs import OptimizerConfig, SamplerConfig
from rlhf.runtimes.transport import WeightSyncConfig
from rlhf.train.checkpoint import OnlineCheckpointConfig
from rlhf.train.curriculum import CurriculumConfig
from rlhf.train.failover import FailoverConfig
from rlhf.train.online import TrainConfig
from rlhf.train.run_folder import replace_key
from rlhf.train.stream import StreamConfig
from rlhf.train.validation import ValidationConfig
from rlhf.types import InputError

T = TypeVar("T")
P = ParamSpec("P")


@dataclass(kw_only=True, slots=True)
class SamplingConfig:
    """Sampling of rollouts. Learner and engine use the same distribution, so there is no top-p or top-k."""

    temperature: float = 1.0
    """Divisor of the logits, in the engine and in the learner."""
    max_tokens: int = 1024
    """Longest completion, in tokens."""

    def __post_init__(self) -> None:
        if self.temperature <= 0 or self.max_tokens < 1:
            raise InputError(
                f"sampling.temperature={self.temperature}, sampling.max_tokens={self.max_tokens}: both must be positive"
            )


@dataclass(kw_only=True, slots=True)
class CriticConfig:
    """The critic of algorithms that learn one."""

    model: str | None = None
    """Folder or Hub id of the critic at the start: a policy, whose head is replaced by a zero head, a reward model, or
    a critic. None: the run's `model`."""
    optimizer: OptimizerConfig = field(default_factory=lambda: OptimizerConfig(lr=1e-5))
    """Optimiser of the critic; the learning rate is usually several times the policy's."""
    lora: LoRAConfig = field(default_factory=LoRAConfig)
    """Adapters of the critic; its value head is trained whole."""
    warmup_steps: int = 0
    """Training steps at the start in which only the critic learns."""

    def __post_init__(self) -> None:
        if self.warmup_steps < 0:
            raise InputError(f"critic.warmup_steps={self.warmup_steps}: give 0 for none, or more")


@dataclass(kw_only=True, slots=True)
class TeacherConfig:
    """The teacher of algorithms that distil one into the policy."""

    model: str | None = None
    """Folder or Hub id of the teacher, with the policy's vocabulary. It is frozen. None: the run has no teacher."""


@dataclass(kw_only=True, slots=True)
class OnlineConfig(RunConfig):
    """Online reinforcement learning: `launch/ppo.py`."""

    lora: LoRAConfig = field(default_factory=LoRAConfig)
    """Adapters of the policy. The reference is then the policy with its adapter off, on the policy's own ranks."""
    algorithm: AlgorithmConfig = MISSING
    """The method: `algorithm=grpo`, `ppo`, another of docs/algorithms.md, or a config class of your own:
    `algorithm=/path/file.py:Config` or `algorithm=package.module:Config`."""
    critic: CriticConfig = field(default_factory=CriticConfig)
    """The critic, if the algorithm has one."""
    teacher: TeacherConfig = field(default_factory=TeacherConfig)
    """The teacher, if the algorithm learns from one."""
    reward: RewardConfig = field(default_factory=RewardConfig)
    """Reward of a rollout."""
    data: PromptDataConfig = field(default_factory=PromptDataConfig)
    """The prompts."""
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    """Sampling of rollouts."""
    environment: str = "single_turn"
    """Environment of the policy: `single_turn`, in which it answers once, or a coroutine function that returns an
    `Episode`, as `package.module:function` or `/path/file.py:function`. A class will do: it is made with its options
    once per engine, its instances are called. See docs/extending.md."""
    environment_options: dict[str, Any] = field(default_factory=dict)
    """Keyword arguments of the environment: `+environment_options.NAME=value`, as in `+environment_options.turns=3`; in
    a recipe, `{turns: 3}`."""
    curriculum: CurriculumConfig = field(default_factory=CurriculumConfig)
    """Choice of prompts by the policy's success at them."""
    stream: StreamConfig = field(default_factory=StreamConfig)
    """Prompts in flight and quotas."""
    train: TrainConfig = field(default_factory=TrainConfig)
    """Steps and optimiser steps."""
    stop_at_reward: float | None = None
    """End once the mean reward of the last `stop_window` steps reaches this; None trains all steps."""
    stop_window: int = 3
    """Training steps that `stop_at_reward` averages over."""
    sampler: SamplerConfig = field(default_factory=SamplerConfig)
    """The engines."""
    weight_sync: WeightSyncConfig = field(default_factory=WeightSyncConfig)
    """Transport of weights to the engines."""
    checkpoint: OnlineCheckpointConfig = field(default_factory=OnlineCheckpointConfig)
    """Intervals of checkpoints, their number, and the best model."""
    validation: ValidationConfig = field(default_factory=ValidationConfig)
    """Measurement on held-out prompts before, during and after training."""
    failover: FailoverConfig = field(default_factory=FailoverConfig)
    """Restarts of workers that die."""

    def __post_init__(self) -> None:
        if self.stop_window < 1:
            raise InputError(f"stop_window={self.stop_window}: give at least 1")


@dataclass(kw_only=True, slots=True)
class CompareConfig(OnlineConfig):
    """Comparison of policies: `launch/compare.py`. `model` is the reference, `reward` the judge, `data` the prompts."""

    policies: dict[str, str] = field(default_factory=dict)
    """Folders or Hub ids of the policies by name, one or more: `+policies.NAME=FOLDER`."""

    def __post_init__(self) -> None:
        OnlineConfig.__post_init__(self)
        if not self.policies:
            raise InputError("policies={}: name at least one, as in +policies.ppo=FOLDER")


DATA: dict[str, type[Any]] = {
    "supervised": SupervisedDataConfig,
    "text": TextDataConfig,
    "preferences": PreferenceDataConfig,
    "rankings": RankingDataConfig,
    "labelled": KTODataConfig,
    "steps": StepDataConfig,
}
"""Choices of the group `data`."""
OPEN_GROUPS["algorithm"] = (AlgorithmConfig, PreferenceConfig, ScoreMethodConfig)
CLASS = "class"
"""Key of a method that is not registered here: the text that names its config class. No field can be called so."""

SCHEMAS: list[type[Any]] = []
"""Dataclasses of whole configurations, in the order of their registration."""


def add_schema(name: str, schema: type[Any], *entries: type[Any]) -> None:
    """Register a schema with Hydra under the name that `conf/` uses; `entries` are the dataclasses of the values of its
    dicts. Packages above this one register their own schemas."""
    ConfigStore.instance().store(name=name, node=schema)
    SCHEMAS.extend([schema, *entries])


def register() -> None:
    """Register the schemas with Hydra under the names that `conf/` uses."""
    store = ConfigStore.instance()
    add_schema("online_schema", OnlineConfig, PromptSetConfig, ConstraintConfig)
    add_schema("sft_schema", SFTRunConfig)
    add_schema("reward_model_schema", RewardModelRunConfig)
    add_schema("preference_schema", PreferenceRunConfig)
    add_schema("compare_schema", CompareConfig)
    add_schema("evaluate_schema", EvaluationConfig, SuiteConfig)
    for name, algorithm in ALGORITHMS.items():
        store.store(group="algorithm", name=name, node=algorithm)
    for name, data in DATA.items():
        store.store(group="data", name=name, node=data)


register()


def resolve(composed: DictConfig, schema: type[T]) -> T:
    """Convert the composed configuration to its dataclass: check keys and values, and expand `~` in paths.

    Raises InputError with the key, the value and the remedy.
    """
    unknown = list(unknown_keys(composed))
    if unknown:
        raise InputError(unknown_key(*unknown[0]))
    expand_homes(composed)
    if OmegaConf.select(composed, "data.sets") and OmegaConf.is_missing(composed.data, "path"):
        composed.data.path = NO_PATH
    config = OmegaConf.to_object(composed)
    assert isinstance(config, schema)
    return config


def compose(folder: Path, name: str, overrides: list[str], schema: type[T]) -> T:
    """Compose a configuration without a command line, as `--config-name name overrides` would.

    Inside a Hydra main, its folders, including `--config-dir`, are searched instead of `folder`.
    """
    started = GlobalHydra.instance().is_initialized()
    with nullcontext() if started else initialize_config_dir(str(folder.resolve()), version_base="1.3"):
        return resolve(hydra_compose(name, as_overrides(overrides)), schema)


def from_words(words: list[str], schema: type[T]) -> T:
    """Return a configuration from `key=value` words only, lists as `key=[a,b]`, for commands without Hydra. Raises
    InputError."""
    # Not parsed as YAML, in which 007 and 12e4, possible beginnings of hashes, are numbers.
    given: dict[str, Any] = {key: value for key, _, value in (word.partition("=") for word in words)}
    known = {declared.name: str(declared.type) for declared in dataclasses.fields(schema)}  # type: ignore[arg-type]
    for key, value in given.items():
        if key not in known:
            raise InputError(unknown_key(key, schema))
        if known[key].startswith("list"):
            items = value.removeprefix("[").removesuffix("]").split(",")
            given[key] = [item.strip() for item in items if item.strip()]
    return OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(schema), given))  # type: ignore[return-value]


def as_plain(config: Any) -> dict[str, Any]:
    """Return a configuration as JSON values, as the user set it: with ids of the Hub instead of their folders."""
    plain = as_read(config)
    for key, snapshot in (plain.get("hub") or {}).items():
        plain = replace_key(plain, key, snapshot["id"])
    return plain


def as_read(config: Any) -> dict[str, Any]:
    """Return a configuration as JSON values, with the folders that are read, and the class of a user's own method."""
    plain = OmegaConf.to_container(OmegaConf.structured(config), enum_to_str=True)
    assert isinstance(plain, dict)
    method = plain.get("algorithm")
    if isinstance(method, dict) and type(config.algorithm) not in ALGORITHMS.values():
        method[CLASS] = spec_of(type(config.algorithm))
    return {str(key): value for key, value in plain.items()}


def expand_homes(node: DictConfig, prefix: str = "") -> None:
    """Replace a leading `~` in paths by the home directory. Raises InputError if there is none."""
    for name in map(str, node):
        key, value = f"{prefix}{name}", None if OmegaConf.is_missing(node, name) else node[name]
        if isinstance(value, DictConfig):
            expand_homes(value, f"{key}.")
        elif is_path(key) and isinstance(value, str):
            node[name] = expand_home(key, value)
        elif is_path(key) and isinstance(value, ListConfig):
            node[name] = [expand_home(key, path) for path in value]


def all_schemas() -> list[type[Any]]:
    """Return every dataclass of the configurations."""
    found = [*LOADED, *SCHEMAS, *ALGORITHMS.values(), *DATA.values(), ConstraintConfig, PromptSetConfig]
    for schema in found:
        hints = [declared.default_factory for declared in dataclasses.fields(schema)]
        found += [hint for hint in hints if dataclasses.is_dataclass(hint) and hint not in found]  # type: ignore[misc]
    return found

"""What can be configured, composed from the owners' dataclasses."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, DictConfig, OmegaConf

from rlhf.actors.plan import PlacementConfig
from rlhf.actors.preflight import PreflightConfig
from rlhf.algorithms.base import AlgorithmConfig
from rlhf.algorithms.grpo import GRPOConfig
from rlhf.algorithms.ppo import PPOConfig
from rlhf.data.prompts import PromptDataConfig
from rlhf.data.supervised import SupervisedDataConfig
from rlhf.models.lora import LoRAConfig
from rlhf.models.rope import RopeScalingConfig
from rlhf.rewards.base import RewardConfig
from rlhf.runtimes.base import BackendConfig, OptimizerConfig, SamplerConfig, WeightSyncConfig
from rlhf.train.checkpoint import CheckpointConfig
from rlhf.train.offline import OfflineTrainConfig
from rlhf.train.online import TrainConfig
from rlhf.train.stream import StreamConfig
from rlhf.train.sweep import SweepRunConfig
from rlhf.train.tracking import LogConfig
from rlhf.types import InputError

T = TypeVar("T")
P = ParamSpec("P")


@dataclass(kw_only=True, slots=True)
class SamplingConfig:
    """How rollouts are sampled. Learner and engine use the same distribution, so there is no top-p or top-k."""

    temperature: float = 1.0
    """Logits are divided by it, in the engine and in the learner."""
    max_tokens: int = 1024
    """Longest completion."""

    def __post_init__(self) -> None:
        if self.temperature <= 0 or self.max_tokens < 1:
            raise InputError(
                f"sampling.temperature={self.temperature}, sampling.max_tokens={self.max_tokens}: both must be positive"
            )


@dataclass(kw_only=True, slots=True)
class SuccessConfig:
    """How success is measured before and after training: sampled as in training, on prompts of the training data."""

    num_prompts: int = 100
    """Prompts asked, from the first."""
    samples_per_prompt: int = 4
    """Rollouts of each."""
    threshold: float = 1.0
    """A rollout succeeds whose reward reaches this."""
    part: str | None = None
    """The part of the reward that must reach it: a function's name, which may have weight 0, or `reward_model`. None:
    the whole."""
    num_shown: int = 3
    """Completions shown before and after."""

    def __post_init__(self) -> None:
        for name in ("num_prompts", "samples_per_prompt"):
            if getattr(self, name) < 1:
                raise InputError(f"success.{name}={getattr(self, name)}: give at least 1")


@dataclass(kw_only=True, slots=True)
class CriticConfig:
    """The critic of algorithms that learn one."""

    model: str | None = None
    """Folder it starts from: a policy, whose head is replaced by one that says 0, a reward model, or a critic. None:
    the run's `model`."""
    optimizer: OptimizerConfig = field(default_factory=lambda: OptimizerConfig(lr=1e-5))
    """Its optimiser; its learning rate is usually several times the policy's."""
    warmup_steps: int = 0
    """Training steps in which the critic learns alone, before the policy does."""

    def __post_init__(self) -> None:
        if self.warmup_steps < 0:
            raise InputError(f"critic.warmup_steps={self.warmup_steps}: give 0 for none, or more")


@dataclass(kw_only=True, slots=True)
class RunConfig:
    """What every training run has."""

    model: str = MISSING
    """Folder of the model to start from, in Hugging Face format; online it is the reference too."""
    output: str = MISSING
    """Folder of the run. Empty or absent to start, the same to continue."""
    seed: int = 0
    """Of the order of the data, of dealing minibatches, and of every rollout."""
    dry_run: bool = False
    """Check the input, show some rows, and stop before Ray starts."""
    backend: BackendConfig = field(default_factory=BackendConfig)
    """How models are held and trained."""
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    """The optimiser of what is trained."""
    placement: PlacementConfig = field(default_factory=PlacementConfig)
    """Accelerators of each role; offline training takes those of the policy."""
    preflight: PreflightConfig = field(default_factory=PreflightConfig)
    """What is asked of the nodes before accelerators are held."""
    log: LogConfig = field(default_factory=LogConfig)
    """What is written down."""


@dataclass(kw_only=True, slots=True)
class OnlineConfig(RunConfig):
    """Online reinforcement learning: `launch/ppo.py`."""

    algorithm: AlgorithmConfig = MISSING
    """The method: `algorithm=grpo` or `algorithm=ppo`."""
    critic: CriticConfig = field(default_factory=CriticConfig)
    """The critic, where the algorithm has one."""
    reward: RewardConfig = field(default_factory=RewardConfig)
    """What a rollout is worth."""
    data: PromptDataConfig = field(default_factory=PromptDataConfig)
    """The prompts."""
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    """How rollouts are sampled."""
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
    """How weights reach the engines."""
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    """When to save."""
    success: SuccessConfig = field(default_factory=SuccessConfig)
    """How success is measured before and after."""

    def __post_init__(self) -> None:
        if self.stop_window < 1:
            raise InputError(f"stop_window={self.stop_window}: give at least 1")


@dataclass(kw_only=True, slots=True)
class HeldOutConfig:
    """Rows that are not learnt from, on which the model is measured before, during and after training."""

    path: str | None = None
    """A file of rows in the form of the data. None: they are taken from the data itself."""
    others: dict[str, str] = field(default_factory=dict)
    """More such files, by the name their figures get: rows of another domain than is trained on."""
    fraction: float = 0.0
    """Share of the data that is held out, where no file is given; 0 measures nothing."""
    every: int | None = None
    """Training steps between measurements; None measures before and after alone."""
    num_samples: int = 3
    """Held-out prompts that a policy completes, greedily, at each measurement; they go to `samples.jsonl`."""
    sample_tokens: int = 64
    """Longest completion of them."""

    def __post_init__(self) -> None:
        if not 0 <= self.fraction < 1:
            raise InputError(f"held_out.fraction={self.fraction}: give at least 0 and less than 1")
        if self.path is not None and self.fraction:
            raise InputError(
                f"held_out.path={self.path}, held_out.fraction={self.fraction}: rows come from a file or from the "
                "data; set one of them"
            )
        if self.every is not None and self.every < 1:
            raise InputError(f"held_out.every={self.every}: give at least 1, or null for before and after alone")
        if self.num_samples < 0 or self.sample_tokens < 1:
            raise InputError(
                f"held_out.num_samples={self.num_samples}, held_out.sample_tokens={self.sample_tokens}: give at least "
                "0 and 1"
            )


@dataclass(kw_only=True, slots=True)
class OfflineConfig(RunConfig):
    """What every training on a fixed data set has."""

    train: OfflineTrainConfig = field(default_factory=OfflineTrainConfig)
    """Steps and rows per step."""
    held_out: HeldOutConfig = field(default_factory=HeldOutConfig)
    """What the model is measured on."""
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    """When to save."""
    lora: LoRAConfig = field(default_factory=LoRAConfig)
    """Adapters in place of full fine-tuning."""
    rope_scaling: RopeScalingConfig = field(default_factory=RopeScalingConfig)
    """A longer context than the model was made for."""
    neftune_alpha: float | None = None
    """Noise on the embeddings while training (Jain et al. 2023): 5, 10 or 15. None: no noise."""


@dataclass(kw_only=True, slots=True)
class SFTRunConfig(OfflineConfig):
    """Supervised fine-tuning: `launch/sft.py`."""

    data: SupervisedDataConfig = field(default_factory=SupervisedDataConfig)
    """The rows."""


def register() -> None:
    """Make the schemas known to Hydra; `conf/` refers to them by these names."""
    store = ConfigStore.instance()
    store.store(name="online_schema", node=OnlineConfig)
    store.store(name="sft_schema", node=SFTRunConfig)
    store.store(name="sweep_schema", node=SweepRunConfig)
    store.store(group="algorithm", name="grpo", node=GRPOConfig)
    store.store(group="algorithm", name="ppo", node=PPOConfig)
    store.store(group="reward", name="reward_schema", node=RewardConfig)


register()


def resolve(composed: DictConfig, schema: type[T]) -> T:
    """The composed configuration as its dataclass, every key known and every value checked.

    Raises InputError with the key, the value and the remedy.
    """
    unknown = list(unknown_keys(composed))
    if unknown:
        key, known = unknown[0]
        raise InputError(unknown_key(key, known))
    config = OmegaConf.to_object(composed)
    assert isinstance(config, schema)
    return config


def compose(folder: Path, name: str, overrides: list[str], schema: type[T]) -> T:
    """A configuration composed without a command line: what `--config-name name overrides` would give."""
    with initialize_config_dir(str(folder.resolve()), version_base="1.3"):
        return resolve(hydra_compose(name, overrides), schema)


def as_plain(config: Any) -> dict[str, Any]:
    """A configuration as JSON can hold it."""
    plain = OmegaConf.to_container(OmegaConf.structured(config), enum_to_str=True)
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items()}


def unknown_keys(node: DictConfig, prefix: str = "") -> Iterator[tuple[str, list[str]]]:
    """Keys that no dataclass declares: `+key=value` adds them without a word."""
    schema = OmegaConf.get_type(node)
    if not dataclasses.is_dataclass(schema):
        return
    known = [declared.name for declared in dataclasses.fields(schema)]
    for key in map(str, node):
        if key not in known:
            yield f"{prefix}{key}", known
        elif not OmegaConf.is_missing(node, str(key)) and isinstance(node[key], DictConfig):
            yield from unknown_keys(node[key], f"{prefix}{key}.")


def unknown_key(key: str, known: list[str]) -> str:
    close = difflib.get_close_matches(key.rpartition(".")[2], known, n=1)
    parent = key.rpartition(".")[0]
    hint = f"did you mean {parent + '.' if parent else ''}{close[0]}?" if close else f"known are {', '.join(known)}"
    return f"{key}: there is no such key; {hint}"


def all_schemas() -> list[type[Any]]:
    """Every dataclass a configuration is made of."""
    found: list[type[Any]] = [OnlineConfig, SFTRunConfig, SweepRunConfig, GRPOConfig, PPOConfig]
    for schema in found:
        hints = [declared.default_factory for declared in dataclasses.fields(schema)]
        found += [hint for hint in hints if dataclasses.is_dataclass(hint) and hint not in found]  # type: ignore[misc]
    return found

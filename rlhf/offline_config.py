"""Configuration of every run, and of trainings on a fixed data set."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING

from rlhf.actors.plan import PlacementConfig
from rlhf.actors.preflight import PreflightConfig
from rlhf.algorithms.base import ScoreMethodConfig
from rlhf.algorithms.preference import PreferenceConfig
from rlhf.data.base import OfflineDataConfig, PolicyPreferenceDataConfig, ScoreDataConfig, SFTDataConfig
from rlhf.evaluation.text import Language
from rlhf.hub import Snapshot
from rlhf.models.lora import LoRAConfig
from rlhf.models.rope import RopeScalingConfig
from rlhf.runtimes.configs import BackendConfig, OptimizerConfig
from rlhf.train.checkpoint import CheckpointConfig
from rlhf.train.offline import OfflineTrainConfig
from rlhf.train.reference import ReferenceConfig
from rlhf.train.tracking import LogConfig
from rlhf.types import InputError


@dataclass(kw_only=True, slots=True)
class RunConfig:
    """Keys of every training run."""

    model: str = MISSING
    """The model to start from: a folder in Hugging Face format, or an id of the Hub such as `Qwen/Qwen3-0.6B` or
    `Qwen/Qwen3-0.6B@REVISION`; online it is the reference too."""
    output: str = MISSING
    """Folder of the run. Empty or absent to start, the same to continue."""
    seed: int = 0
    """Seed of the order of the data, of minibatches, and of every rollout."""
    template_date: str | None = None
    """Date, as in 2026-11-29, for chat templates that write today's date (Llama 3.1). None: the day of the run's first
    start, also when it continues later."""
    dry_run: bool = False
    """Check the input, show some rows, and stop before Ray starts."""
    chat_template: str | None = None
    """A jinja file that replaces the model's chat template, for example for base models without one; it is saved with
    the model. None: the model's own."""
    chat_template_kwargs: dict[str, Any] = field(default_factory=dict)
    """Values for switches that the chat template reads, as in `+chat_template_kwargs.enable_thinking=false` for Qwen3.
    Every rendering uses them, and they are saved with the model as the template's defaults."""
    backend: BackendConfig = field(default_factory=BackendConfig)
    """Settings of the models under DeepSpeed."""
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    """Optimiser of the trained model."""
    placement: PlacementConfig = field(default_factory=PlacementConfig)
    """Accelerators of each role; offline training takes those of the policy."""
    preflight: PreflightConfig = field(default_factory=PreflightConfig)
    """Checks of the nodes before accelerators are held."""
    log: LogConfig = field(default_factory=LogConfig)
    """Logs and plots."""
    inputs: dict[str, str] = field(default_factory=dict)
    """sha256 of the inputs by key, for the manifest; set by `launch/pipeline.py`."""
    hub: dict[str, Snapshot] = field(default_factory=dict)
    """Ids of the Hub with their commits, by key; set at the run's first start, and kept when it continues."""


@dataclass(kw_only=True, slots=True)
class HeldOutConfig:
    """Held-out rows, on which the model is measured before, during and after training."""

    path: str | None = None
    """A file or folder of rows in the format of the data, or a data set of the Hub (see `data.path`). None: `fraction`
    of the data is held out."""
    others: dict[str, str] = field(default_factory=dict)
    """Further files of held-out rows, such as rows of other domains, by the prefix of their metrics:
    `+held_out.others.NAME=FILE`."""
    fraction: float = 0.0
    """Share of the data that is held out, if `path` is not set; 0: no held-out rows."""
    every: int | None = None
    """Training steps between measurements; None measures only before and after training."""
    num_samples: int = 3
    """Number of held-out prompts that a policy completes greedily at each measurement, for `samples.jsonl`."""
    sample_tokens: int = 64
    """Longest completion of these prompts, in tokens."""
    sample_language: Language | None = None
    """`zh` or `en`: measure BLEU-4, ROUGE-L and exact matches of the completions against the rows' own, in characters
    or words. None: not measured."""

    def __post_init__(self) -> None:
        if not 0 <= self.fraction < 1:
            raise InputError(f"held_out.fraction={self.fraction}: give at least 0 and less than 1")
        if self.path is not None and self.fraction:
            raise InputError(
                f"held_out.path={self.path}, held_out.fraction={self.fraction}: rows come from a file or from the "
                "data; set one of them"
            )
        if self.every is not None and self.every < 1:
            raise InputError(f"held_out.every={self.every}: give at least 1, or null for before and after only")
        if self.num_samples < 0 or self.sample_tokens < 1:
            raise InputError(
                f"held_out.num_samples={self.num_samples}, held_out.sample_tokens={self.sample_tokens}: give at least "
                "0 and 1"
            )


@dataclass(kw_only=True, slots=True)
class OfflineConfig(RunConfig):
    """Keys of every training on a fixed data set."""

    data: OfflineDataConfig = MISSING
    """The rows."""
    train: OfflineTrainConfig = field(default_factory=OfflineTrainConfig)
    """Steps and rows per step."""
    held_out: HeldOutConfig = field(default_factory=HeldOutConfig)
    """Held-out data on which the model is measured."""
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    """Intervals of checkpoints, and their number."""
    lora: LoRAConfig = field(default_factory=LoRAConfig)
    """Adapters in place of full fine-tuning."""
    rope_scaling: RopeScalingConfig = field(default_factory=RopeScalingConfig)
    """Extension of the model's context."""
    neftune_alpha: float | None = None
    """Noise on the embeddings while training (Jain et al. 2023): 5, 10 or 15. None: no noise."""

    def __post_init__(self) -> None:
        if self.neftune_alpha is not None and not 0 < self.neftune_alpha < math.inf:
            raise InputError(f"neftune_alpha={self.neftune_alpha}: give a positive number, or null for no noise")


@dataclass(kw_only=True, slots=True)
class SFTRunConfig(OfflineConfig):
    """Supervised fine-tuning and continued pretraining: `launch/sft.py`."""

    data: SFTDataConfig = MISSING
    """The rows: dialogues with `data=supervised`, documents for continued pretraining with `data=text`."""
    optimizer: OptimizerConfig = field(default_factory=lambda: OptimizerConfig(lr=1e-5))
    """The optimiser. An adapter learns at about ten times the learning rate of a whole model."""


@dataclass(kw_only=True, slots=True)
class RewardModelRunConfig(OfflineConfig):
    """Reward models: `launch/reward_model.py`."""

    optimizer: OptimizerConfig = field(default_factory=lambda: OptimizerConfig(lr=1e-5))
    """The optimiser. An adapter learns at about ten times the learning rate of a whole model."""
    data: ScoreDataConfig = MISSING
    """The rows: pairs with `data=rankings`, for process rewards answers in steps with `data=steps`."""
    algorithm: ScoreMethodConfig = MISSING
    """`algorithm=reward_model` scores whole answers, `algorithm=process_reward` their steps."""
    folds: int | None = None
    """Number of folds of a cross-validation before the training: each fold's model is trained without one part of the
    pairs, and measured on it. None: no cross-validation."""

    def __post_init__(self) -> None:
        # With slots the zero-argument super() refers to the class before slots were added.
        super(RewardModelRunConfig, self).__post_init__()
        if self.folds is not None and self.folds < 2:
            raise InputError(f"folds={self.folds}: give at least 2, or null for no cross-validation")


@dataclass(kw_only=True, slots=True)
class PreferenceRunConfig(OfflineConfig):
    """Policies from preferences: `launch/dpo.py`."""

    data: PolicyPreferenceDataConfig = MISSING
    """The rows: pairs with `data=preferences`, for KTO single answers with `data=labelled`."""
    algorithm: PreferenceConfig = MISSING
    """`algorithm=dpo`, `ipo`, `kto`, `orpo` or `simpo`."""
    reference: ReferenceConfig = field(default_factory=ReferenceConfig)
    """Reference to which DPO, IPO and KTO compare the policy."""

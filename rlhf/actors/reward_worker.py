"""A copy of a reward model, as a Ray actor."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from rlhf.runtimes.configs import Precision
from rlhf.runtimes.memory import peak_memory_bytes, used_bytes

if TYPE_CHECKING:
    from rlhf.models.reward_model import RewardModel


@dataclass(frozen=True, slots=True, kw_only=True)
class RewardModelSpec:
    """Specification of a copy of the reward model."""

    model_paths: tuple[str, ...]
    """Folders of the reward models; several are an ensemble."""
    pessimism: float
    """Number of standard deviations over the models that is subtracted from their mean."""
    precision: Precision
    max_tokens: int
    """Largest number of tokens of a forward pass."""
    template_date: str | None
    """Date that chat templates write, for models that read rollouts as text."""


class RewardModelWorker:
    """Ray starts it again when it dies, and repeats its calls: it has no state but the model, which it loads when it is
    first used, so a new one takes no memory of accelerators that another phase holds."""

    def __init__(self, spec: RewardModelSpec) -> None:
        self.spec, self.birth = spec, uuid.uuid4().hex
        self.models: list[RewardModel] = []

    def start(self) -> str:
        """Load the model. Returns the worker's birth."""
        self.load()
        return self.birth

    def get_birth(self) -> str:
        """Return an id that is another after each restart."""
        return self.birth

    def load(self) -> list[RewardModel]:
        """Return the models, loaded if they are not."""
        if not self.models:
            # Imported here: it takes seconds, and only this process needs it.
            from rlhf.models.reward_model import RewardModel

            spec = self.spec
            dtype = torch.bfloat16 if spec.precision is Precision.bf16 else torch.float32
            self.models = [
                RewardModel(path, dtype=dtype, max_tokens=spec.max_tokens, template_date=spec.template_date)
                for path in spec.model_paths
            ]
        return self.models

    def score(self, items: list[Any]) -> list[float]:
        return ensemble_scores([model.score(items) for model in self.load()], self.spec.pessimism)

    def memory(self) -> int:
        return peak_memory_bytes()

    def offload(self) -> int:
        return self._move("cpu")

    def onload(self) -> int:
        return self._move(self.load()[0].device.type)

    def _move(self, device: str) -> int:
        for model in self.models:
            model.move(device)
        if torch.cuda.is_available():
            # PyTorch caches the models' memory until it is released explicitly.
            torch.cuda.empty_cache()
        return used_bytes()


def ensemble_scores(
    scores: Sequence[Sequence[float]],  # [M, N], NaN where a model gave none
    pessimism: float,
) -> list[float]:  # [N]
    """Return the mean over models minus `pessimism` standard deviations, a lower confidence bound (Coste et al.
    2023)."""
    by_model = np.array(scores)
    return (by_model.mean(0) - pessimism * by_model.std(0)).tolist()

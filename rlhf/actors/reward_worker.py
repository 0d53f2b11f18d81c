"""A copy of a reward model, as a Ray actor."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from rlhf.runtimes.base import Precision
from rlhf.runtimes.memory import peak_memory_bytes, used_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class RewardModelSpec:
    """What a copy is made from."""

    model_path: str
    precision: Precision
    max_tokens: int
    """Of a forward pass."""


class RewardModelWorker:
    def start(self, spec: RewardModelSpec) -> None:
        # Imported here: it takes seconds, of this process alone.
        from rlhf.models.reward_model import RewardModel

        dtype = torch.bfloat16 if spec.precision is Precision.bf16 else torch.float32
        self.model = RewardModel(spec.model_path, dtype=dtype, max_tokens=spec.max_tokens)

    def score(self, judged: list[Any]) -> list[float]:
        return self.model.score(judged)

    def memory(self) -> int:
        return peak_memory_bytes()

    def offload(self) -> int:
        return self._move("cpu")

    def onload(self) -> int:
        return self._move(self.model.device.type)

    def _move(self, device: str) -> int:
        self.model.move(device)
        return used_bytes()

"""Token ids that an engine never samples."""

from __future__ import annotations

from typing import Any

import torch

from rlhf.runtimes import vllm_environment  # noqa: F401  before vllm, which reads its environment once

# isort: split
from vllm.config import VllmConfig
from vllm.v1.sample.logits_processor import BatchUpdate, LogitsProcessor
from vllm.v1.worker.gpu.sample.logits_processor import LogitsProcessor as RunnerV2LogitsProcessor

BANNED_TOKEN_IDS = "banned_token_ids"
"""Key of the banned token ids in vLLM's `additional_config`."""


class BanTokens(LogitsProcessor, RunnerV2LogitsProcessor):
    """Minus infinity for ids no policy may choose: a sampled `<pad>` would be masked out of its own gradient.

    Both of vLLM's model runners load it: V2 is the default where Triton is, which is wherever there is a GPU.
    """

    def __init__(self, vllm_config: VllmConfig, where: Any, is_pin_memory: bool = False) -> None:
        """`where`: the device under V1, the requests' state under V2, which has it."""
        ids = vllm_config.additional_config[BANNED_TOKEN_IDS]
        self.ids = torch.tensor(ids, dtype=torch.int64, device=getattr(where, "device", where))

    def apply(self, logits: torch.Tensor, ctx: Any = None) -> torch.Tensor:
        """Every row alike, whichever requests `ctx` (V2) says they are of."""
        return logits.index_fill_(-1, self.ids, float("-inf"))

    def is_argmax_invariant(self) -> bool:
        return False

    def update_state(self, batch_update: BatchUpdate | None) -> None:
        """The ids are the same for every request."""

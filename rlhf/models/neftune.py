"""NEFTune: uniform noise on the input embeddings in training (Jain et al. 2023)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar

import numpy as np
import torch
import xxhash
from torch import Tensor, nn

from rlhf.ops.microbatch import MicroBatch

OutputsT = TypeVar("OutputsT")
SEED_BITS = 63


class NEFTune(Generic[OutputsT]):
    """A readout that adds noise to the embeddings when gradients are enabled, and none otherwise.

    A sequence's noise is a function of the seed, the step and the tokens, so it is the same on any number of ranks,
    packed or padded, and in a resumed run.
    """

    def __init__(self, readout: Callable[[nn.Module, MicroBatch], OutputsT], alpha: float | None, seed: int) -> None:
        """`alpha`: 5, 10 or 15 in the paper; None for no noise."""
        self.readout, self.alpha, self.seed = readout, alpha, seed
        self.step = 0
        """The training step, which the loop sets: every epoch has its own noise."""

    def __call__(self, model: nn.Module, batch: MicroBatch) -> OutputsT:
        if self.alpha is None or not torch.is_grad_enabled():
            return self.readout(model, batch)

        def add_noise(embedding: nn.Module, inputs: Any, embedded: Tensor) -> Tensor:
            return embedded + self.noise(batch, embedded)

        hook = model.get_input_embeddings().register_forward_hook(add_noise)
        try:
            return self.readout(model, batch)
        finally:
            hook.remove()

    def noise(
        self,
        batch: MicroBatch,
        embedded: Tensor,  # [B, T, D]
    ) -> Tensor:  # [B, T, D]
        """Draw noise, uniform in (-1, 1), times alpha / sqrt(L D) with L the sequence's length; 0 on padding."""
        assert self.alpha is not None
        noise = torch.zeros_like(embedded)
        for row in range(batch.num_rows):
            places = batch.row_ids == row
            ids = batch.token_ids[places].cpu().numpy().astype(np.int64)
            generator = torch.Generator(embedded.device).manual_seed(self.seed_of(ids))
            shape = (len(ids), embedded.shape[-1])
            uniform = torch.rand(shape, generator=generator, device=embedded.device) * 2 - 1
            noise[places] = (uniform * (self.alpha / (shape[0] * shape[1]) ** 0.5)).to(noise.dtype)
        return noise

    def seed_of(
        self,
        token_ids: np.ndarray,  # [T] int64
    ) -> int:
        digest = xxhash.xxh64(np.array([self.seed, self.step], dtype=np.int64).tobytes())
        digest.update(token_ids.tobytes())
        return digest.intdigest() % (1 << SEED_BITS)

"""Verification of a saved folder against the trained model: the folder is loaded again and run on the same row."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rlhf.models.heads import Head
from rlhf.models.own_forward import OwnForward
from rlhf.ops.microbatch import MicroBatch
from rlhf.runtimes.protocols import Backend
from rlhf.train.artifact import FileRecords
from rlhf.types import RunError

PROBE_TOKENS = 32
"""Length of the row that verifies a saved model."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verification:
    """Difference between the outputs of a loaded folder and the model's own: logprobs in nats, values and scores in
    their own unit."""

    tokens: int
    mean_difference: float
    max_difference: float


@dataclass(frozen=True, slots=True, kw_only=True)
class SavedModel:
    """Report of the rank that wrote a model; those of the other ranks are empty."""

    verification: Verification | None
    """Result of the verification; None if it was not requested."""
    records: FileRecords


def as_manifest(verification: Verification | None) -> dict[str, Any]:
    """Return the entry for a model folder's manifest; empty if the folder was not verified."""
    return {} if verification is None else {"verified": asdict(verification)}


def verify_saved(folder: Path, backend: Backend, ask: Callable[..., Any], token_ids: Sequence[int]) -> Verification:
    """Load the saved `folder` into rank 0's host memory, and compare it with the model on a probe row.

    `ask` is the model's readout in training; the loaded model runs transformers' own forward pass. Every rank calls
    this. Raises RunError if the two differ by more than rounding.
    """
    ids = np.array(token_ids[:PROBE_TOKENS], dtype=np.int32)
    # A score belongs to the whole row; transformers reads it at the last token.
    read = np.arange(len(ids)) == len(ids) - 1 if backend.head is Head.score else np.arange(len(ids)) > 0
    micro = MicroBatch.from_rows([ids], [read], [0.0], {}, packed=False)
    live = micro.flatten(backend.forward(micro, ask, grad=False).column)[read]
    found: list[float] | None = None
    if backend.rank == 0:
        with torch.no_grad():
            saved = micro.flatten(OwnForward(backend.head)(backend.load_saved(folder), micro))[read]
        # The rounding error of large values and scores grows with their size.
        scale = 1.0 if backend.head is Head.causal_lm else np.maximum(np.abs(live), 1.0)
        differences = np.abs(saved - live) / scale
        found = [float(differences.mean()), float(differences.max())]
    mean, most = next(each for each in backend.gather(found) if each is not None)
    if not mean <= backend.rounding:
        raise RunError(
            f"{folder}: the saved model differs from the trained one: loaded again, its outputs for {len(ids)} "
            f"tokens differ by {mean:.2g} on average, more than {backend.rounding:g}; nothing was committed, and the "
            "last checkpoint is intact; train another architecture, such as Qwen3 or Llama, and report this one"
        )
    return Verification(tokens=len(ids), mean_difference=mean, max_difference=most)

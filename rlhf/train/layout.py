"""Choice between packed and padded rows: measured on the model's real weights, before anything is learnt.

transformers separates packed rows by their restarting positions. Not every architecture reads them: linear attention,
state spaces and convolutions continue across a row's end, and some attention masks are built without positions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rlhf.models.causal_lm import read_model_config, vocab_size
from rlhf.models.output_head import computes_all_logits
from rlhf.models.own_forward import HiddenStates
from rlhf.ops.microbatch import MicroBatch
from rlhf.runtimes.configs import BackendConfig, Precision
from rlhf.runtimes.protocols import Backend
from rlhf.types import InputError

ROW_LENGTHS = (12, 20)
SEED = 0
LEAK = 1e-6
"""Largest change of a row through the row packed before it: almost none, since both batches have the same shape."""
ROUNDING = {Precision.fp32: 1e-3, Precision.bf16: 2e-2}
"""Differences of hidden states, as shares of their norm, that rounding in other shapes and kernels may cause."""
LARGEST = {Precision.fp32: 1e-3, Precision.bf16: 0.15}
"""Upper limit of the difference, for deep models in bf16, in which rounding accumulates."""
ROUNDING_FACTOR = 5.0
"""Factor by which packed rows may differ more than padded ones."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Exactness:
    """Largest differences of a model's hidden states, in shares of their norm, over the tokens of two random rows."""

    padded: float
    """Padded rows against the rows alone."""
    packed: float
    """Packed rows against the rows alone."""
    leak: float
    """The second of two packed rows against the same row packed after another first row."""
    all_logits: bool = False
    """True if all logits of a micro-batch exist at once, since the model's head is not known to be a plain product."""

    def padded_is_exact(self, precision: Precision) -> bool:
        return self.padded <= LARGEST[precision]

    def packed_is_exact(self, precision: Precision) -> bool:
        limit = min(max(ROUNDING[precision], ROUNDING_FACTOR * self.padded), LARGEST[precision])
        return self.leak <= LEAK and self.packed <= limit


def measure_exactness(backend: Backend, ask: Callable[..., Any], vocabulary: int) -> Exactness:
    """Run two random rows packed, padded and alone. Every rank calls this, and gets the same result.

    `ask` is the model's readout in training; `vocabulary` is the number of the model's token ids.
    """
    generator = np.random.default_rng(SEED)
    first, second, other = (
        generator.integers(0, vocabulary, length).astype(np.int32) for length in (*ROW_LENGTHS, ROW_LENGTHS[0])
    )

    def states(rows: Sequence[np.ndarray], *, packed: bool, ask: Callable[..., Any] = ask) -> list[Tensor]:
        masks = [np.arange(len(row)) > 0 for row in rows]
        micro = MicroBatch.from_rows(rows, masks, [0.0] * len(rows), {}, packed=packed)
        actual = backend.forward(micro, HiddenStates(ask), grad=False).cpu()
        return [actual[micro.row_ids == i] for i in range(len(rows))]

    alone = [states([row], packed=True, ask=plainly)[0] for row in (first, second)]
    packed = states([first, second], packed=True)
    padded = states([first, second], packed=False)
    behind_other = states([other, second], packed=True)[1]
    mine = (
        largest_difference(padded, alone),
        largest_difference(packed, alone),
        largest_difference([packed[1]], [behind_other]),
    )
    over_ranks = [max(values) for values in zip(*backend.gather(mine), strict=True)]
    micro = MicroBatch.from_rows([first], [np.arange(len(first)) > 0], [0.0], {}, packed=False)
    all_logits = backend.forward(micro, computes_all_logits, grad=False)
    return Exactness(padded=over_ranks[0], packed=over_ranks[1], leak=over_ranks[2], all_logits=all_logits)


def plainly(model: torch.nn.Module, batch: MicroBatch) -> None:
    """Run the model's own forward pass on a row, given only its tokens."""
    model(input_ids=batch.token_ids)


def largest_difference(actual: Sequence[Tensor], expected: Sequence[Tensor]) -> float:
    """Return the largest relative difference over all tokens; NaN counts as infinite."""
    shares = [(a - b).norm(dim=-1) / b.norm(dim=-1).clamp_min(1e-12) for a, b in zip(actual, expected, strict=True)]
    return float(torch.cat(shares).nan_to_num(nan=torch.inf).max())


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """Layout of rows in micro-batches, for every model of a run."""

    packed: bool
    notes: tuple[str, ...] = ()
    """Sentences for the user: why rows are padded by default, and which models need more memory."""


def choose_layout(config: BackendConfig, models: Mapping[str, tuple[str, Exactness]]) -> Layout:
    """Choose one layout for all models of a run; `models` has the folder and the measurement of each role's model.

    Raises InputError if `packed=true` is not exact, or padding is not.
    """
    for role, (path, measured) in models.items():
        if not measured.padded_is_exact(config.precision):
            raise InputError(
                f"model {path!r} ({role}): outputs of padded rows differ from those of single rows (hidden states "
                f"differ by {measured.padded:.1%} of their norm), so no micro-batch would be exact; use a causal "
                "model, such as Qwen3 or Llama"
            )
    notes = tuple(
        f"model {path!r} ({role}): all logits of a micro-batch are computed at once, since its head is not the plain "
        "product that its config describes; lower backend.max_tokens_per_microbatch if memory runs out"
        for role, (path, measured) in models.items()
        if measured.all_logits
    )
    if config.packed is False:
        return Layout(packed=False, notes=notes)
    for role, (path, measured) in models.items():
        if not measured.packed_is_exact(config.precision):
            reason = (
                f"model {path!r} ({role}) has other outputs for packed rows than for single rows (hidden states "
                f"differ by {max(measured.packed, measured.leak):.1%} of their norm)"
            )
            if config.packed:
                raise InputError(f"backend.packed=true: {reason}; set backend.packed=false, or null to have it chosen")
            return Layout(packed=False, notes=(f"rows are padded: {reason}", *notes))
    return Layout(packed=True, notes=notes)


def layout_of(config: BackendConfig, role: str, path: str, backend: Backend, ask: Callable[..., Any]) -> Layout:
    """Measure the model in `path` and choose the layout. Every rank calls this. Raises InputError as `choose_layout`
    does."""
    measured = measure_exactness(backend, ask, vocab_size(read_model_config(path)))
    return choose_layout(config, {role: (path, measured)})

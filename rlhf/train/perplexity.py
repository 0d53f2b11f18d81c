"""Perplexity of held-out text, which rises when a policy forgets."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Protocol

from rlhf.algorithms.base import Loss
from rlhf.algorithms.sft import SFTLoss
from rlhf.train.batching import Packing, minibatch
from rlhf.train.offline import as_group
from rlhf.train.stats import Stats
from rlhf.types import Batch, Reference, TrainingRow, Unit

LARGEST_EXPONENT = 700.0
"""Nats whose exponential is still a finite float."""


class Evaluated(Protocol):
    async def evaluate(self, batch: Batch, loss: Loss) -> Stats:
        """Compute a loss of the model's own distribution on a batch, without learning."""


def text_batch(units: Sequence[Unit], packing: Packing, put: Callable[[tuple[TrainingRow, ...]], Reference]) -> Batch:
    """Return all rows of a text as one batch, which refers to them as `put` stores them."""
    rows = tuple(row for unit in units for row in unit)
    group = replace(as_group(rows), rows=put(rows), whole=False)
    return Batch(step=0, minibatches=(minibatch([group], packing),), order=(0,))


async def perplexities(policy: Evaluated, texts: Mapping[str, Batch]) -> dict[str, float]:
    """Return `nats_per_token/NAME` of each text, the negative log likelihood over all its rows and ranks divided by
    the number of predicted tokens, and `perplexity/NAME`, its exponential."""
    figures: dict[str, float] = {}
    for name, batch in texts.items():
        nats = (await policy.evaluate(batch, SFTLoss())).values()["loss"]
        figures |= {f"perplexity/{name}": math.exp(min(nats, LARGEST_EXPONENT)), f"nats_per_token/{name}": nats}
    return figures

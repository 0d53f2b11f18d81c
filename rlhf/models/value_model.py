"""Critics: a token classifier with one label, whose logit is the return expected at a token."""

from __future__ import annotations

import torch.nn.functional as F
from torch import nn

from rlhf.algorithms.base import ValueOutputs
from rlhf.ops.microbatch import MicroBatch


class ValueReadout:
    """Values before each token was chosen, at the token's own position like logprobs; 0 where nothing is learnt."""

    def __call__(self, model: nn.Module, batch: MicroBatch) -> ValueOutputs:
        # use_cache=False: with a cache transformers does not look for packed sequences, and they would see each other.
        logits = model(input_ids=batch.token_ids, position_ids=batch.position_ids, use_cache=False).logits
        values = F.pad(logits.squeeze(-1).float()[:, :-1], (1, 0))
        return ValueOutputs(values=values.masked_fill(~batch.loss_mask, 0.0))

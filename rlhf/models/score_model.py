"""Reward models in training: the head's logit where the loss mask is True."""

from __future__ import annotations

from torch import Tensor, nn

from rlhf.algorithms.base import ScoreOutputs
from rlhf.ops.microbatch import MicroBatch


class ScoreReadout:
    """Scores of a sequence classifier with one label.

    A decoder has a score at every token, packed or padded: its head is applied to all tokens, of which transformers'
    own forward keeps the last. An encoder, which sees the whole row at once, has one score per padded row.
    """

    def __call__(self, model: nn.Module, batch: MicroBatch) -> ScoreOutputs:
        module = getattr(model, "module", model)  # the model inside an engine
        # Decoders name their head `score`, encoders do not.
        if hasattr(module, "score"):
            scores = decoder_scores(model, module.score, batch)
        else:
            scores = encoder_scores(model, batch, num_segments=getattr(module.config, "type_vocab_size", 0))
        return ScoreOutputs(scores=scores.float().masked_fill(~batch.loss_mask, 0.0))


def decoder_scores(model: nn.Module, head: nn.Module, batch: MicroBatch) -> Tensor:  # [B, T]
    found: list[Tensor] = []
    hook = head.register_forward_hook(lambda module, inputs, output: found.append(output))
    try:
        # use_cache=False: with a cache transformers does not look for packed sequences, and they would see each other.
        model(input_ids=batch.token_ids, position_ids=batch.position_ids, use_cache=False)
    finally:
        hook.remove()
    return found[0].squeeze(-1)


def encoder_scores(
    model: nn.Module, batch: MicroBatch, *, num_segments: int
) -> Tensor:  # [B, T], a row's score at each of its tokens
    inputs = {"input_ids": batch.token_ids, "attention_mask": (batch.row_ids < max(batch.num_rows, 1)).long()}
    if batch.token_types is not None and num_segments > 1:
        inputs["token_type_ids"] = batch.token_types.long()
    return model(**inputs).logits.expand(batch.token_ids.shape)

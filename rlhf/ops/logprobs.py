"""Log probabilities of tokens, under the distribution the engine samples from."""

import torch.nn.functional as F
from torch import Tensor


def sampling_logits(
    logits: Tensor,  # [..., V]
    *,
    temperature: float,
    banned_token_ids: Tensor | None,  # [K] int64
) -> Tensor:  # [..., V] float32
    """Return the logits a sampler draws from: banned ids at minus infinity, the rest divided by the temperature."""
    logits = logits.float()
    if banned_token_ids is not None:
        logits = logits.index_fill(-1, banned_token_ids, float("-inf"))
    return logits if temperature == 1.0 else logits / temperature


def next_token_logprobs(
    logits: Tensor,  # [B, T, V]
    token_ids: Tensor,  # [B, T] int64
) -> Tensor:  # [B, T] float32
    """Log probability of each token given those before it, at the token's own position.

    The first token of a row has no prediction: 0. In a packed row the first token of every sequence is predicted from
    the sequence before it; its loss mask is False.
    """
    logits, targets = logits[:, :-1], token_ids[:, 1:]
    chosen = logits.gather(-1, targets.unsqueeze(-1)).squeeze(-1)
    return F.pad(chosen - logits.logsumexp(-1), (1, 0))


def next_token_entropy(
    logits: Tensor,  # [B, T, V]
) -> Tensor:  # [B, T] float32
    """Entropy in nats of the distribution each token was drawn from, at the token's own position; the first is 0."""
    logprobs = logits[:, :-1].log_softmax(-1)
    # Filled before the product, whose gradient would be 0 times infinity.
    weighted = logprobs.exp() * logprobs.masked_fill(logprobs.isneginf(), 0.0)
    return F.pad(-weighted.sum(-1), (1, 0))


def is_first_choice(
    logits: Tensor,  # [B, T, V]
    token_ids: Tensor,  # [B, T] int64
) -> Tensor:  # [B, T] bool
    """Return whether each token is the one greedy decoding would choose after those before it; the first is not."""
    return F.pad(logits[:, :-1].argmax(-1) == token_ids[:, 1:], (1, 0))

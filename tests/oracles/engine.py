"""Weights for engines, and what an engine that holds them must have sampled."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from rlhf.runtimes.buckets import Bucket, in_buckets, pack
from rlhf.types import Completion


def perturbed(model: str, scale: float) -> Any:
    """A learner: the model with noise in all parameters, the same for the same scale."""
    from transformers import AutoModelForCausalLM

    learner = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in learner.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * scale)
    return learner


def buckets_of(learner: Any, bucket_bytes: int) -> list[Bucket]:
    named = list(learner.named_parameters())
    return [pack(run) for run in in_buckets(named, [parameter.nbytes for _, parameter in named], bucket_bytes)]


def assert_sampled_from(
    learner: Any, prompt: Sequence[int], completion: Completion, *, temperature: float, banned: Sequence[int]
) -> None:
    """No banned id was sampled, and the logprobs are those of the learner's sampling distribution."""
    assert not set(banned) & set(completion.token_ids.tolist()), "banned ids were sampled"
    ids = torch.tensor([*prompt, *completion.token_ids.tolist()]).unsqueeze(0)
    logits = learner(input_ids=ids).logits[0, len(prompt) - 1 : -1] / temperature
    logits[:, list(banned)] = float("-inf")
    expected = logits.log_softmax(-1)[torch.arange(len(completion.token_ids)), ids[0, len(prompt) :]]
    np.testing.assert_allclose(completion.logprobs, expected.detach().numpy(), atol=1e-4)

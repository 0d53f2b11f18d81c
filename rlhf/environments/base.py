"""The interface of an episode."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from rlhf.types import Completion, Prompt, Rollout, Sampling


class Sampler(Protocol):
    """Token ids in, token ids out."""

    async def generate(self, token_ids: tuple[int, ...], sampling: Sampling) -> Completion: ...


class Environment(Protocol):
    """One episode: one token sequence, its loss mask True on what the policy chose."""

    async def __call__(self, prompt: Prompt, sampler: Sampler, sampling: Sampling) -> Rollout: ...


def as_rollout(prompt: Prompt, completion: Completion) -> Rollout:
    """The episode in which the policy answered `prompt` with `completion`."""
    num_prompt_tokens = len(prompt.token_ids)
    asked = np.array(prompt.token_ids, dtype=np.int32)
    return Rollout(
        prompt_id=prompt.id,
        token_ids=np.concatenate([asked, completion.token_ids]),
        loss_mask=np.arange(num_prompt_tokens + len(completion.token_ids)) >= num_prompt_tokens,
        logprobs=np.concatenate([np.zeros(num_prompt_tokens, dtype=np.float32), completion.logprobs]),
        versions=np.concatenate([np.full(num_prompt_tokens, -1, dtype=np.int32), completion.versions]),
        stop=completion.stop,
        text=completion.text,
    )


def unsampled(token_ids: Sequence[int], *, stop: str, text: str) -> Completion:
    """A completion no engine gave: logprobs and versions 0."""
    return Completion(
        token_ids=np.array(token_ids, dtype=np.int32),
        logprobs=np.zeros(len(token_ids), dtype=np.float32),
        versions=np.zeros(len(token_ids), dtype=np.int32),
        stop=stop,
        text=text,
    )

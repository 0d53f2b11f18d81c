"""The usual episode: the policy answers once."""

from __future__ import annotations

from rlhf.environments.base import ChatSampler, act, start
from rlhf.types import Episode, Prompt, Sampling


async def single_turn(prompt: Prompt, sampler: ChatSampler, sampling: Sampling) -> Episode:
    return Episode(rows=[await act(start(prompt), sampler, sampling)])

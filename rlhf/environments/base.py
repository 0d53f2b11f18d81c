"""What an episode is."""

from __future__ import annotations

from typing import Protocol

from rlhf.types import Completion, Prompt, Rollout, Sampling


class Sampler(Protocol):
    """Token ids in, token ids out."""

    async def generate(self, token_ids: tuple[int, ...], sampling: Sampling) -> Completion: ...


class Environment(Protocol):
    """One episode: one token sequence, its loss mask True on what the policy chose."""

    async def __call__(self, prompt: Prompt, sampler: Sampler, sampling: Sampling) -> Rollout: ...

"""The usual episode: the policy answers once."""

from __future__ import annotations

from rlhf.environments.base import Sampler, as_rollout
from rlhf.types import Prompt, Rollout, Sampling


async def single_turn(prompt: Prompt, sampler: Sampler, sampling: Sampling) -> Rollout:
    return as_rollout(prompt, await sampler.generate(prompt.token_ids, sampling))

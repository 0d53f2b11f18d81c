"""The usual episode: the policy answers once."""

from __future__ import annotations

import numpy as np

from rlhf.environments.base import Sampler
from rlhf.types import Prompt, Rollout, Sampling


async def single_turn(prompt: Prompt, sampler: Sampler, sampling: Sampling) -> Rollout:
    completion = await sampler.generate(prompt.token_ids, sampling)
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

"""Prompts and rollouts as small as a reward needs them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from rlhf.types import Prompt, Rollout

FAULTY = Path(__file__).with_name("faulty_rewards.py")


def prompt(answer: object = None, *, id: str = "p0", **meta: Any) -> Prompt:
    if answer is not None:
        meta["answer"] = answer
    return Prompt(id=id, messages=[], token_ids=(1, 2), source="data.jsonl:1", meta=meta)


def rollout(text: str = "", *, num_tokens: int = 3) -> Rollout:
    """Two prompt tokens, then `num_tokens` of the policy's."""
    total = 2 + num_tokens
    return Rollout(
        prompt_id="p0",
        token_ids=np.arange(total, dtype=np.int32),
        loss_mask=np.arange(total) >= 2,
        logprobs=np.zeros(total, np.float32),
        versions=np.zeros(total, np.int32),
        stop="stop",
        text=text,
    )

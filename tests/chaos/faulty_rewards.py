"""Rewards that go wrong, each in its own way, on some prompts."""

import os
import time

from rlhf.types import Prompt, Rollout


def sometimes(prompt: Prompt, rollout: Rollout) -> object:
    """By the first digit of the prompt: hangs, dies, raises, or returns what is no reward."""
    fault = {"0": time.sleep, "1": os._exit, "2": int}.get(prompt.id[-1])
    if fault is time.sleep:
        time.sleep(60)
    if fault is os._exit:
        os._exit(3)
    if fault is int:
        raise LookupError("a bug in the reward")
    if prompt.id[-1] == "3":
        return float("nan")
    if prompt.id[-1] == "4":
        return None
    return sum(character.isdigit() for character in rollout.text) / 8


def unless_right(prompt: Prompt, rollout: Rollout) -> float:
    """Scores the row's own answer, which no untrained policy gives."""
    if rollout.text != prompt.meta["answer"]:
        raise LookupError("a bug in the reward")
    return 1.0


def always(prompt: Prompt, rollout: Rollout) -> float:
    raise LookupError("a bug in the reward")

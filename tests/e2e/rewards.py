"""Rewards for the tests, used as a person would use their own file."""

from rlhf.types import Prompt, Rollout


def digits(prompt: Prompt, rollout: Rollout) -> float:
    """Share of the completion's characters that are digits."""
    return sum(character.isdigit() for character in rollout.text) / 8

"""The ratings of a judge behind an endpoint, as a part of the reward."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from itertools import chain

from rlhf.judges.rubric import Answer
from rlhf.rewards.base import RewardConfig
from rlhf.types import Episode, Failure, Prompt, Rollout, Score

Rate = Callable[[Sequence[Answer]], Awaitable[list[float | Failure]]]
"""Rates answers between 0 and 1. Raises RunError once the judge's budget is used up."""
NAME = "judge"


@dataclass(frozen=True, slots=True)
class JudgedReward:
    """Adds the judge's rating of the last row to each episode with a score, one call per group."""

    rate: Rate
    config: RewardConfig

    async def judge(self, prompt: Prompt, episodes: Sequence[Episode]) -> None:
        """Add the ratings, unless the prompt's set has own rewards without the judge. Raises RunError once the judge's
        budget is used up."""
        scored = [(episode, episode.score) for episode in episodes if isinstance(episode.score, Score)]
        own = prompt.reward_weights
        weight = self.config.judge_weight if own is None else own.get(NAME)
        if not scored or weight is None:
            return
        shows = self.config.judge.shows_reference
        ratings = await self.rate([answer_in(prompt, episode.rows[-1], shows=shows) for episode, _ in scored])
        for (episode, score), rating in zip(scored, ratings, strict=True):
            if isinstance(rating, Failure):
                episode.score = rating
            else:
                episode.score = Score(value=score.value + weight * rating, parts={**score.parts, NAME: rating})


def answer_in(prompt: Prompt, rollout: Rollout, *, shows: bool) -> Answer:
    """Return the policy's last turn, after the turns before it. `shows`: with the row's answer as reference."""
    turns = [*chain.from_iterable(turn.messages for turn in rollout.turns)]
    reference = str(prompt.meta["answer"]) if shows and prompt.meta.get("answer") is not None else None
    return Answer(
        dialogue=[*tool_messages(prompt), *prompt.messages, *turns[:-1]], text=rollout.text, reference=reference
    )


def tool_messages(prompt: Prompt) -> list[dict[str, object]]:
    """Return the tools that the policy may call, as a message for the judge to read."""
    return [{"role": "tools", "functions": list(prompt.tools)}] if prompt.tools else []

"""The reward of a rollout: functions and a reward model, weighted."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from rlhf.rewards.base import RewardConfig
from rlhf.rewards.processes import RewardProcesses
from rlhf.rewards.reward_model import NAME, Judge, ModelReward
from rlhf.types import Failure, Prompt, Rollout, Score


class TotalReward:
    """What is configured, asked side by side; the first failure among it is the rollout's."""

    def __init__(self, config: RewardConfig, judges: Sequence[Judge] = ()) -> None:
        self._functions = RewardProcesses(config) if config.functions else None
        self._model = ModelReward(judges, config) if config.model is not None else None
        self._model_weight = config.model_weight

    async def start(self) -> None:
        """Returns once every process has loaded the functions. Raises RunError where one cannot."""
        if self._functions:
            await self._functions.start()

    async def score(self, prompt: Prompt, rollout: Rollout) -> Score | Failure:
        sources = [source for source in (self._functions, self._model) if source is not None]
        results = await asyncio.gather(*(source.score(prompt, rollout) for source in sources))
        total, parts = 0.0, dict[str, float]()
        for source, result in zip(sources, results, strict=True):
            if isinstance(result, Failure):
                return result
            if source is self._model:
                total += self._model_weight * result.value
                parts[NAME] = result.value
            else:
                total += result.value
                parts |= result.parts
        return Score(value=total, parts=parts)

    async def close(self) -> None:
        for source in (self._functions, self._model):
            if source is not None:
                await source.close()

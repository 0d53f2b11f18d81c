"""The score of a reward model that runs elsewhere, as a part of the reward."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from rlhf.rewards.base import ModelInput, RewardConfig, describe
from rlhf.types import Failure, Prompt, Rollout, RunError, Score

Judge = Callable[[list[Any]], Awaitable[list[float]]]
"""A copy of the model: rollouts in, one score each. Raises RunError once it is dead."""
NAME = "reward_model"
MAX_BATCH = 256
"""Rollouts that one call carries at most."""


@dataclass(slots=True, eq=False)
class Question:
    judged: Any
    answer: asyncio.Future[Score | Failure]


class ModelReward:
    """Asks copies of a reward model, each with all the rollouts that ended while it was busy."""

    def __init__(self, judges: Sequence[Judge], config: RewardConfig) -> None:
        self._config = config
        self._questions: asyncio.Queue[Question] = asyncio.Queue()
        self._num_alive = len(judges)
        self._servers = [asyncio.create_task(self._serve(judge)) for judge in judges]

    async def score(self, prompt: Prompt, rollout: Rollout) -> Score | Failure:
        """RunError where no copy is left."""
        answer: asyncio.Future[Score | Failure] = asyncio.get_running_loop().create_future()
        self._questions.put_nowait(Question(self._as_judged(prompt, rollout), answer))
        if not self._num_alive:
            self._refuse()
        return await answer

    async def close(self) -> None:
        for server in self._servers:
            server.cancel()
        await asyncio.gather(*self._servers, return_exceptions=True)

    def _as_judged(self, prompt: Prompt, rollout: Rollout) -> Any:
        if self._config.model_input is ModelInput.tokens:
            return rollout.token_ids.tolist()
        return [*(dict(message) for message in prompt.messages), {"role": "assistant", "content": rollout.text}]

    async def _serve(self, judge: Judge) -> None:
        """Until the copy dies: what it then leaves unanswered goes back to the queue, for another."""
        while True:
            asked = [await self._questions.get()]
            while len(asked) < MAX_BATCH and not self._questions.empty():
                asked.append(self._questions.get_nowait())
            try:
                async with asyncio.timeout(self._config.model_timeout_s):
                    values = await judge([question.judged for question in asked])
            except TimeoutError:
                message = self._says(
                    f"no score within reward.model_timeout_s={self._config.model_timeout_s:g}; add copies by "
                    "placement.reward, or raise it"
                )
                settle(asked, [Failure(kind="reward_timeout", message=message)] * len(asked))
            except RunError:
                for question in asked:
                    self._questions.put_nowait(question)
                self._num_alive -= 1
                if not self._num_alive:
                    self._refuse()
                return
            except Exception as error:  # noqa: BLE001  whatever the model raises is a failure of these rollouts
                settle(asked, [Failure(kind="reward_error", message=self._says(describe(error)))] * len(asked))
            else:
                settle(asked, [self._as_score(value) for value in values])

    def _as_score(self, value: float) -> Score | Failure:
        if math.isfinite(value):
            return Score(value=value)
        message = self._says(f"it gave {value}: the rollout is longer than it reads, or it overflowed")
        return Failure(kind="reward_invalid", message=message)

    def _refuse(self) -> None:
        """No copy is left: no score for whoever waits."""
        while not self._questions.empty():
            answer = self._questions.get_nowait().answer
            if not answer.done():
                answer.set_exception(RunError(self._says("every worker of it died; resume the run")))

    def _says(self, what: str) -> str:
        return f"reward.model={self._config.model}: {what}"


def settle(asked: Sequence[Question], results: Sequence[Score | Failure]) -> None:
    for question, result in zip(asked, results, strict=True):
        if not question.answer.done():  # its caller may have been cancelled
            question.answer.set_result(result)

"""The score of a reward model that runs in other workers, as a part of the reward."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

from rlhf.data.dialogues import Dialogue
from rlhf.rewards.base import ModelInput, RewardConfig, describe
from rlhf.types import Episode, Failure, Prompt, Rollout, RunError, Score

Judge = Callable[[list[Any]], Awaitable[list[float]]]
"""A copy of the model: rollouts in, one score each. Raises RunError once it is dead."""
NAME = "reward_model"
CALLS_IN_FLIGHT = 2
"""Calls in flight per copy: the next call is sent while the copy works on the current one."""


@dataclass(slots=True, eq=False)
class Question:
    items: list[Any]
    answer: asyncio.Future[list[float] | Failure]


class ModelReward:
    """Caller of the copies of a reward model, with one group of rollouts per call.

    A group's scores depend only on the group: if groups were mixed in the order in which they end, the last bits would
    depend on timing, and a resumed run would not repeat the numbers of an uninterrupted one.
    """

    def __init__(self, judges: Sequence[Judge], config: RewardConfig) -> None:
        self._config = config
        self._questions: asyncio.Queue[Question] = asyncio.Queue()
        servers = [judge for judge in judges for _ in range(CALLS_IN_FLIGHT)]
        self._num_alive = len(servers)
        self._servers = [asyncio.create_task(self._serve(judge)) for judge in servers]

    async def judge(self, prompt: Prompt, episodes: Sequence[Episode]) -> None:
        """Add the model's score of the last row to each episode with a score, unless the prompt's set has own rewards
        without the model. Raises RunError if no copy is left."""
        scored = [(episode, episode.score) for episode in episodes if isinstance(episode.score, Score)]
        own = prompt.reward_weights
        weight = self._config.model_weight if own is None else own.get(NAME)
        if not scored or weight is None:
            return
        answer: asyncio.Future[list[float] | Failure] = asyncio.get_running_loop().create_future()
        self._questions.put_nowait(
            Question([self._as_judged(prompt, episode.rows[-1]) for episode, _ in scored], answer)
        )
        if not self._num_alive:
            self._refuse()
        answered = await answer
        for i, (episode, score) in enumerate(scored):
            episode.score = answered if isinstance(answered, Failure) else self._total(score, answered[i], weight)

    async def close(self) -> None:
        for server in self._servers:
            server.cancel()
        await asyncio.gather(*self._servers, return_exceptions=True)

    def _as_judged(self, prompt: Prompt, rollout: Rollout) -> Any:
        if self._config.model_input is ModelInput.tokens:
            return rollout.token_ids.tolist()
        turns = chain.from_iterable(turn.messages for turn in rollout.turns)
        return Dialogue([*prompt.messages, *turns], prompt.tools)

    async def _serve(self, judge: Judge) -> None:
        """Serve until the copy dies; its unanswered questions return to the queue for another copy."""
        while True:
            question = await self._questions.get()
            result: list[float] | Failure
            try:
                async with asyncio.timeout(self._config.model_timeout_s):
                    result = await judge(question.items)
            except TimeoutError:
                message = self._says(
                    f"no score within reward.model_timeout_s={self._config.model_timeout_s:g}; add copies by "
                    "placement.reward, or raise it"
                )
                result = Failure(kind="reward_timeout", message=message)
            except RunError:
                self._questions.put_nowait(question)
                self._num_alive -= 1
                if not self._num_alive:
                    self._refuse()
                return
            except Exception as error:  # noqa: BLE001  any error of the model is a failure of these rollouts
                result = Failure(kind="reward_error", message=self._says(describe(error)))
            if not question.answer.done():  # its caller may have been cancelled
                question.answer.set_result(result)

    def _total(self, score: Score, value: float, weight: float) -> Score | Failure:
        if not math.isfinite(value):
            message = self._says(f"it gave {value}: the rollout is longer than it reads, or it overflowed")
            return Failure(kind="reward_invalid", message=message)
        return Score(value=score.value + weight * value, parts={**score.parts, NAME: value})

    def _refuse(self) -> None:
        """Fail every waiting request: no copy is left."""
        while not self._questions.empty():
            answer = self._questions.get_nowait().answer
            if not answer.done():
                answer.set_exception(RunError(self._says("every worker of it died; resume the run")))

    def _says(self, what: str) -> str:
        return f"reward.model={self._config.model}: {what}"

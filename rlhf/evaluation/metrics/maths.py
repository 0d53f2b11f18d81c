"""Mathematics: right final answers, by the reward function that trains them."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from rlhf.evaluation.items import Answer, Item
from rlhf.evaluation.metrics.base import MeanMetric
from rlhf.evaluation.metrics.requirements import references
from rlhf.rewards.base import RewardConfig
from rlhf.rewards.processes import RewardProcesses
from rlhf.types import Failure, InputError, Prompt, Rollout, Score

_NO_TOKENS: np.ndarray = np.empty(0, np.int32)


@dataclass(frozen=True, slots=True, kw_only=True)
class MathAccuracy(MeanMetric):
    r"""Share of answers whose final expression equals a reference, as `rlhf.rewards.math.math_verify` judges it.

    References are numbers, LaTeX, or whole solutions that end with `#### 72` (GSM8K) or `\boxed{}` (MATH); AIME's are
    whole numbers. Answers may announce their result in English or Chinese. An answer whose comparison fails or takes
    longer than `timeout_s` is wrong.
    """

    bounds: ClassVar[tuple[float, float] | None] = (0.0, 1.0)
    timeout_s: float = 10.0
    """Seconds that one comparison may take: symbolic algebra has inputs that never end."""

    def __post_init__(self) -> None:
        if not 0 < self.timeout_s < np.inf:
            raise InputError(f"timeout_s of the metric of mathematics is {self.timeout_s}: give a positive number")

    def values(self, items: Sequence[Item], answers: Sequence[Answer]) -> np.ndarray:
        pairs = [
            (item, reference, answer.text)
            for item, answer in zip(items, answers, strict=True)
            for reference in references(item, "accuracy of mathematics")
        ]
        # A thread of its own, since the caller's may already run an event loop.
        with ThreadPoolExecutor(1) as pool:
            results = iter(pool.submit(asyncio.run, self._scores(pairs)).result())
        return np.array([max(next(results) for _ in item.references) for item in items])

    async def _scores(self, pairs: Sequence[tuple[Item, str, str]]) -> list[float]:
        """Return 1.0 for each text that equals its reference, else 0.0, from a process that a deadline can kill."""
        if not pairs:
            return []
        processes = RewardProcesses(RewardConfig(functions=["math_verify"], timeout_s=self.timeout_s))
        await processes.start()
        try:
            results = await asyncio.gather(*(_score(processes, *pair) for pair in pairs), return_exceptions=True)
        finally:
            await processes.close()
        for result in results:
            if isinstance(result, BaseException):
                raise result
        return [result for result in results if isinstance(result, float)]


async def _score(processes: RewardProcesses, item: Item, reference: str, text: str) -> float:
    result = await processes.score(_prompt(item, reference), _rollout(item, text))
    if isinstance(result, Score):
        return result.value
    # The comparison fails on an odd answer or on any answer; the reference's own comparison tells the two apart.
    own = await processes.score(_prompt(item, reference), _rollout(item, reference))
    if isinstance(own, Failure) and own.kind == "reward_error":
        raise InputError(
            f"{item.where}: the reference '{reference[-80:]}' of item '{item.id}' cannot be read as mathematics: give "
            r"a number, LaTeX, or a solution that ends with #### 72 or \boxed{72}"
        )
    return 0.0


def _prompt(item: Item, reference: str) -> Prompt:
    return Prompt(id=item.id, messages=(), token_ids=(), source=item.where, meta={"answer": reference})


def _rollout(item: Item, text: str) -> Rollout:
    return Rollout(
        prompt_id=item.id,
        token_ids=_NO_TOKENS,
        loss_mask=_NO_TOKENS.astype(bool),
        logprobs=_NO_TOKENS.astype(np.float32),
        versions=_NO_TOKENS,
        stop="stop",
        text=text,
    )

"""Scoring in child processes, so that a reward that hangs, crashes or exits affects only its own rollout."""

from __future__ import annotations

import asyncio
import pickle
from collections import deque

from rlhf.rewards.base import RewardConfig
from rlhf.rewards.child import Request, RewardProcess
from rlhf.types import Failure, Prompt, Rollout, RunError, Score

WINDOW = 4
"""Largest number of requests that one process holds: enough that it never waits for the next. All but the first wait
for the first, even if another process becomes idle, so more would only add delay."""

RETRIED = frozenset({"reward_error", "reward_timeout", "reward_died"})
"""Failures that may be temporary: a service, memory, a busy machine. `reward_invalid` would recur, so it is final."""


class RewardProcesses:
    """`num_processes` children that serve one queue. A child that dies or is killed is replaced.

    Bound to the event loop and thread that called `start`: the children die with that thread.
    """

    def __init__(self, config: RewardConfig) -> None:
        self._config = config
        self._waiting: deque[Request] = deque()
        self._ready: list[RewardProcess] = []
        self._alive: set[RewardProcess] = set()
        self._keepers: list[asyncio.Task[None]] = []
        self._dealing = False
        self._unusable: str | None = "are not started"

    async def start(self) -> None:
        """Wait until every process has loaded the functions. Raises RunError if one cannot."""
        launches = (self._launch() for _ in range(self._config.num_processes))
        processes: list[RewardProcess] = []
        for outcome in await asyncio.gather(*launches, return_exceptions=True):
            if isinstance(outcome, BaseException):
                await self.close()
                raise outcome
            processes.append(outcome)
        self._keepers = [asyncio.create_task(self._keep(process)) for process in processes]
        self._unusable = None

    async def score(self, prompt: Prompt, rollout: Rollout) -> Score | Failure:
        """Return the reward of one rollout. Raises RunError before `start`, after `close`, or if no process can start
        again."""
        answer: asyncio.Future[Score | Failure] = asyncio.get_running_loop().create_future()
        body = pickle.dumps((prompt, rollout), protocol=pickle.HIGHEST_PROTOCOL)
        self._waiting.append(Request(prompt_id=prompt.id, body=body, answer=answer))
        self._deal_soon()
        return await answer

    async def close(self) -> None:
        """Kill every process and wait for its end. Rollouts that still wait for a score raise RunError."""
        for keeper in self._keepers:
            keeper.cancel()
        await asyncio.gather(*self._keepers, return_exceptions=True)
        await asyncio.gather(*(process.kill() for process in self._alive))
        for process in self._alive:
            self._waiting.extend(process.sent)
        self._ready, self._keepers = [], []
        self._alive.clear()
        self._refuse("are closed")

    async def _launch(self) -> RewardProcess:
        try:
            process = RewardProcess(self._config, self._on_answer)
        except OSError as error:
            raise RunError(f"a reward process cannot start: {error}") from error
        self._alive.add(process)
        try:
            await process.start()
        except RunError:
            await process.kill()
            self._alive.remove(process)
            raise
        self._ready.append(process)
        self._deal_soon()
        return process

    async def _keep(self, process: RewardProcess) -> None:
        """Replace a process whenever it ends. Requests that it had not begun return to the front of the queue."""
        while True:
            timed_out = await process.wait_for_end()
            self._ready.remove(process)
            failure = await process.bury(timed_out)
            self._alive.remove(process)
            if process.sent:
                head = process.sent.popleft()
                self._waiting.extendleft(reversed(process.sent))
                self._on_answer(head, failure)
            try:
                process = await self._launch()
            except RunError as error:
                self._refuse(f"cannot continue: {error}")
                return

    def _on_answer(self, request: Request, result: Score | Failure) -> None:
        """Pass an answer to its caller, or put the request at the end of the queue for another attempt."""
        self._deal_soon()
        request.num_attempts += 1
        if isinstance(result, Failure) and result.kind in RETRIED and request.num_attempts < self._config.max_attempts:
            self._waiting.append(request)
        elif not request.answer.done():
            request.answer.set_result(result)

    def _deal_soon(self) -> None:
        """Schedule one `_deal` per iteration of the event loop, so that waiting requests are sent together."""
        if not self._dealing:
            self._dealing = True
            asyncio.get_running_loop().call_soon(self._deal)

    def _deal(self) -> None:
        self._dealing = False
        if self._unusable is not None:
            self._refuse(self._unusable)
        while self._waiting and self._ready:
            process = min(self._ready, key=lambda process: len(process.sent))
            if len(process.sent) >= WINDOW:
                break
            request = self._waiting.popleft()
            if not request.answer.done():  # the caller may have been cancelled
                process.add(request)
        for process in self._ready:
            process.flush()

    def _refuse(self, reason: str) -> None:
        """Refuse all further requests."""
        self._unusable = reason
        for request in self._waiting:
            if not request.answer.done():
                problem = f"the reward processes {reason}"
                request.answer.set_exception(RunError(f"{problem}; prompt '{request.prompt_id}' has no score"))
        self._waiting.clear()

"""The parent's side of one reward process: start it, send requests, receive answers, detect its end, kill it."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import pickle
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rlhf.rewards.base import RewardConfig
from rlhf.rewards.worker import HEADER
from rlhf.types import Failure, RunError, Score

START_TIMEOUT_S = 60.0
"""Seconds for the interpreter and the imports of the reward functions: sympy takes several on a busy machine."""


@dataclass(slots=True, eq=False)
class Request:
    """A rollout to score, pickled once for all attempts."""

    prompt_id: str
    body: bytes
    answer: asyncio.Future[Score | Failure]
    num_attempts: int = 0
    number: int = field(default_factory=itertools.count(1).__next__)


class RewardProcess(asyncio.Protocol):
    """A child, and its unanswered requests. It scores the oldest, so the deadline applies to that request only."""

    def __init__(self, config: RewardConfig, on_answer: Callable[[Request, Score | Failure], None]) -> None:
        self.sent: deque[Request] = deque()
        self._config = config
        self._names = " + ".join(_with_options(Path(spec).name, config) for spec in config.functions)
        self._on_answer = on_answer
        self._loop = asyncio.get_running_loop()
        self._loaded: asyncio.Future[str | None] = self._loop.create_future()
        self._lost: asyncio.Future[None] = self._loop.create_future()
        self._requests: asyncio.WriteTransport | None = None
        self._answers: asyncio.ReadTransport | None = None
        self._frames: list[bytes] = []
        self._half_line = b""
        self._head_since = 0.0
        # Two pipes, not one socket: a write to a dead child must not lose answers that it has already written.
        (requests, requests_end), (answers_end, answers) = os.pipe(), os.pipe()
        self._ends = open(requests_end, "wb", buffering=0), open(answers_end, "rb", buffering=0)  # noqa: SIM115
        with open(requests, "rb"), open(answers, "wb"):
            # PR_SET_PDEATHSIG refers to the thread that forks, so this runs in the event loop's thread, not in a pool.
            self._popen = subprocess.Popen(
                [sys.executable, "-u", "-m", "rlhf.rewards.worker", str(requests), str(answers)],
                stdin=subprocess.DEVNULL,
                stdout=2,
                pass_fds=[requests, answers],
                start_new_session=True,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
            )

    async def start(self) -> None:
        """Wait until the child has loaded its functions. Raises RunError if it cannot."""
        self._requests, _ = await self._loop.connect_write_pipe(asyncio.BaseProtocol, self._ends[0])
        self._answers, _ = await self._loop.connect_read_pipe(lambda: self, self._ends[1])
        self._frames = [_frame(0, pickle.dumps((sys.path, self._config), protocol=5))]
        self.flush()
        events: list[asyncio.Future[Any]] = [self._loaded, self._lost]
        await asyncio.wait(events, timeout=START_TIMEOUT_S, return_when=asyncio.FIRST_COMPLETED)
        if self._loaded.done():
            problem = self._loaded.result()
        elif self._lost.done():
            problem = f"the process {_exit(await self.kill())} while it loaded"
        else:
            problem = f"the process had not loaded within {START_TIMEOUT_S:g} s"
        if problem is not None:
            raise RunError(f"reward {self._names} cannot start: {problem}; its own output is on the error stream")

    def add(self, request: Request) -> None:
        """Queue a request for the child; `flush` sends it."""
        if not self.sent:
            self._head_since = self._loop.time()
        self.sent.append(request)
        self._frames.append(_frame(request.number, request.body))

    def flush(self) -> None:
        """Send the added requests in one write. A dead child gets nothing; `sent` still lists them."""
        assert self._requests is not None, "start() comes first"
        if self._frames and not self._requests.is_closing():
            self._requests.writelines(self._frames)
        self._frames = []

    def data_received(self, data: bytes) -> None:
        *lines, self._half_line = (self._half_line + data).split(b"\n")
        for line in lines:
            if not self._lost.done():
                self._hear(json.loads(line))

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._lost.done():
            self._lost.set_result(None)

    def _hear(self, message: dict[str, Any]) -> None:
        if "error" in message:
            self._loaded.set_result(message["error"])
            return
        if not self.sent or message["number"] != self.sent[0].number:
            # A reward has forked and both copies answer, so neither can be trusted.
            self.connection_lost(None)
            return
        request = self.sent.popleft()
        self._head_since = self._loop.time()
        if "kind" in message:
            self._on_answer(request, Failure(kind=message["kind"], message=message["message"]))
        else:
            self._on_answer(request, Score(value=message["value"], parts=message["parts"]))

    async def wait_for_end(self) -> bool:
        """Wait until the child dies or its oldest request times out; return True for a timeout."""
        while not self._lost.done():
            timeout_s = self._config.timeout_s
            left_s = self._head_since + timeout_s - self._loop.time() if self.sent else timeout_s
            if left_s <= 0:
                return True
            await asyncio.wait([self._lost], timeout=left_s)
            # uvloop runs timers before it reads, so after a pause of the loop received answers are read first.
            await asyncio.sleep(0)
        return False

    async def bury(self, timed_out: bool) -> Failure:
        """Kill the child's process group; return the failure of the request that it was scoring."""
        code = await self.kill()
        prompt = f"prompt '{self.sent[0].prompt_id}'" if self.sent else "no prompt"
        if timed_out:
            return Failure(
                kind="reward_timeout",
                message=f"reward {self._names}: no score for {prompt} within {self._config.timeout_s:g} s, so its "
                "process was killed; make it faster or raise reward.timeout_s",
            )
        return Failure(
            kind="reward_died",
            message=f"reward {self._names}: its process {_exit(code)} while it scored {prompt}; "
            "look for an exit, a crash in C code or the kernel's out-of-memory killer",
        )

    async def kill(self) -> int:
        """Close the pipes and kill the child with its process group; return its exit code. May be called again."""
        if self._answers is not None:
            self._answers.close()
        if self._requests is not None and not self._requests.is_closing():
            self._requests.abort()
        if self._popen.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._popen.pid, signal.SIGKILL)
        return await asyncio.to_thread(self._popen.wait)


def _frame(number: int, body: bytes) -> bytes:
    return HEADER.pack(number, len(body)) + body


def _with_options(name: str, config: RewardConfig) -> str:
    """Format a function with its options, `length(max_tokens=4, buffer_tokens=2)`: an option may cause a failure."""
    options = ", ".join(f"{key}={value}" for key, value in config.options.get(name, {}).items())
    return f"{name}({options})" if options else name


def _exit(code: int) -> str:
    return f"exited with code {code}" if code >= 0 else f"was killed by {signal.Signals(-code).name}"

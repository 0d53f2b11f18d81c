"""The thread that owns a vLLM engine in this process."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, TypeVar

from rlhf.runtimes import vllm_environment  # noqa: F401  before vllm, which reads its environment once

# isort: split
from vllm import SamplingParams, TokensPrompt
from vllm.lora.request import LoRARequest
from vllm.outputs import RequestOutput
from vllm.v1.engine.llm_engine import LLMEngine

from rlhf.runtimes.protocols import EngineDied

T = TypeVar("T")
WAKE_INTERVAL_S = 1.0


@dataclass(slots=True)
class EngineCall:
    """Something the engine's thread is to do between two steps."""

    work: Callable[[], Any]
    loop: asyncio.AbstractEventLoop
    result: asyncio.Future[Any]

    def run(self) -> None:
        try:
            value = self.work()
        except Exception as error:  # noqa: BLE001  it belongs to the caller
            self.loop.call_soon_threadsafe(settle, self.result, None, error)
        else:
            self.loop.call_soon_threadsafe(settle, self.result, value, None)


def settle(future: asyncio.Future[Any], value: Any, error: Exception | None) -> None:
    if future.done():  # its caller was cancelled
        return
    if error is None:
        future.set_result(value)
    else:
        future.set_exception(error)


@dataclass(slots=True)
class EngineThread:
    """The only thread that touches the engine: it builds it, runs calls between steps and settles finished requests.

    vLLM remembers the CUDA stream of the thread that first used the engine.
    """

    build: Callable[[], LLMEngine]
    calls: queue.SimpleQueue[EngineCall] = field(default_factory=queue.SimpleQueue)
    requests: dict[str, tuple[asyncio.AbstractEventLoop, asyncio.Future[RequestOutput]]] = field(default_factory=dict)
    paused: bool = False
    adapter: LoRARequest | None = None
    """Adapter of new requests; None for the weights alone."""
    error: Exception | None = None
    engine: LLMEngine = field(init=False)

    def start(self) -> None:
        """Start the thread, and return once the engine is built. Raises the error of building it."""
        built: Future[None] = Future()
        threading.Thread(target=self.run, args=(built,), name="vllm-engine", daemon=True).start()
        built.result()

    def run(self, built: Future[None]) -> None:
        try:
            self.engine = self.build()
        except BaseException as error:  # noqa: BLE001  it belongs to the caller that waits for the engine
            built.set_exception(error)
            return
        built.set_result(None)
        self.serve()

    def serve(self) -> None:
        try:
            while True:
                idle = self.paused or not self.engine.has_unfinished_requests()
                try:
                    self.calls.get(block=idle, timeout=WAKE_INTERVAL_S).run()
                except queue.Empty:
                    if not idle:
                        self.settle_finished(self.engine.step())
        except Exception as error:  # noqa: BLE001  the engine died: every caller must hear of it
            self.error = error
            for loop, future in self.requests.values():
                loop.call_soon_threadsafe(settle, future, None, self.death())

    def settle_finished(self, outputs: Sequence[RequestOutput]) -> None:
        for output in outputs:
            if output.finished:
                loop, future = self.requests.pop(output.request_id)
                loop.call_soon_threadsafe(settle, future, output, None)

    def abort(self, request_ids: Sequence[str]) -> None:
        """End requests whose callers were cancelled."""
        for request_id in request_ids:
            self.requests.pop(request_id, None)
        self.engine.abort_request(list(request_ids))

    def death(self) -> EngineDied:
        return EngineDied(f"the vLLM engine died: {type(self.error).__name__}: {self.error}")

    async def do(self, work: Callable[[], T]) -> T:
        """Run `work` on the engine's thread, between two steps."""
        if self.error is not None:
            raise self.death()
        loop = asyncio.get_running_loop()
        result: asyncio.Future[T] = loop.create_future()
        self.calls.put(EngineCall(work, loop, result))
        return await result

    async def request(self, request_id: str, token_ids: Sequence[int], params: SamplingParams) -> RequestOutput:
        if self.error is not None:
            raise self.death()
        loop = asyncio.get_running_loop()
        future: asyncio.Future[RequestOutput] = loop.create_future()

        def add() -> None:
            self.requests[request_id] = (loop, future)
            prompt = TokensPrompt(prompt_token_ids=list(token_ids))
            self.engine.add_request(request_id, prompt, params, lora_request=self.adapter)

        try:
            await self.do(add)
            return await future
        except asyncio.CancelledError:
            # The engine would continue it, beside requests that are waited for.
            self.calls.put(EngineCall(lambda: self.abort([request_id]), loop, loop.create_future()))
            raise

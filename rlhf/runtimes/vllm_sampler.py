"""A vLLM engine in this process, stepped by a thread of its own."""

from __future__ import annotations

import asyncio
import itertools
import queue
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
import torch

from rlhf.runtimes.vllm_environment import whole_prefills

# isort: split
from vllm import EngineArgs, SamplingParams, TokensPrompt
from vllm.config import VllmConfig, WeightTransferConfig
from vllm.outputs import RequestOutput
from vllm.platforms import current_platform
from vllm.sampling_params import RequestOutputKind
from vllm.v1.engine.llm_engine import LLMEngine
from vllm.v1.sample.logits_processor import BatchUpdate, LogitsProcessor

from rlhf.runtimes.base import Precision, SamplerConfig
from rlhf.runtimes.buckets import Bucket
from rlhf.runtimes.carriers import Link
from rlhf.runtimes.memory import used_bytes
from rlhf.runtimes.vllm_weights import BUCKETS, WorkerExtension
from rlhf.types import Completion, RunError, Sampling

T = TypeVar("T")
BANNED_TOKEN_IDS = "banned_token_ids"
WAKE_INTERVAL_S = 1.0


class BanTokens(LogitsProcessor):
    """Minus infinity for ids no policy may choose: a sampled `<pad>` would be masked out of its own gradient."""

    def __init__(self, vllm_config: VllmConfig, device: torch.device, is_pin_memory: bool) -> None:
        ids = vllm_config.additional_config[BANNED_TOKEN_IDS]
        self.ids = torch.tensor(ids, dtype=torch.int64, device=device)

    def apply(self, logits: torch.Tensor) -> torch.Tensor:
        return logits.index_fill_(-1, self.ids, float("-inf"))

    def is_argmax_invariant(self) -> bool:
        return False

    def update_state(self, batch_update: BatchUpdate | None) -> None:
        """The ids are the same for every request."""


@dataclass(slots=True)
class Job:
    """Something the engine's thread is to do between two steps."""

    work: Callable[[], Any]
    loop: asyncio.AbstractEventLoop
    result: asyncio.Future[Any]

    def run(self) -> None:
        try:
            value = self.work()
        except Exception as error:  # noqa: BLE001  it belongs to the caller, whoever that is
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
    """The only thread that touches the engine: it runs jobs between steps and settles finished requests."""

    engine: LLMEngine
    jobs: queue.SimpleQueue[Job] = field(default_factory=queue.SimpleQueue)
    requests: dict[str, tuple[asyncio.AbstractEventLoop, asyncio.Future[RequestOutput]]] = field(default_factory=dict)
    paused: bool = False
    error: Exception | None = None

    def start(self) -> None:
        threading.Thread(target=self.run, name="vllm-engine", daemon=True).start()

    def run(self) -> None:
        try:
            while True:
                idle = self.paused or not self.engine.has_unfinished_requests()
                try:
                    self.jobs.get(block=idle, timeout=WAKE_INTERVAL_S).run()
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

    def death(self) -> RunError:
        return RunError(f"the vLLM engine died: {type(self.error).__name__}: {self.error}; resume the run")

    async def do(self, work: Callable[[], T]) -> T:
        """Run `work` on the engine's thread, between two steps."""
        if self.error is not None:
            raise self.death()
        loop = asyncio.get_running_loop()
        result: asyncio.Future[T] = loop.create_future()
        self.jobs.put(Job(work, loop, result))
        return await result

    async def request(self, request_id: str, token_ids: Sequence[int], params: SamplingParams) -> RequestOutput:
        if self.error is not None:
            raise self.death()
        loop = asyncio.get_running_loop()
        future: asyncio.Future[RequestOutput] = loop.create_future()

        def add() -> None:
            self.requests[request_id] = (loop, future)
            self.engine.add_request(request_id, TokensPrompt(prompt_token_ids=list(token_ids)), params)

        await self.do(add)
        return await future


class VLLMSampler:
    """Token ids in, token ids out, with the logprobs they were drawn under."""

    def __init__(
        self,
        model_path: str,
        config: SamplerConfig,
        precision: Precision,
        *,
        banned_token_ids: Sequence[int],
        stop_token_ids: Sequence[int],
        takes_turns: bool = False,
    ) -> None:
        # On a CPU vLLM cannot give memory back: an engine that shares one stays.
        self.sleeps = takes_turns and current_platform.is_sleep_mode_available()
        self.asleep: list[str] = []
        arguments = EngineArgs(
            model=model_path,
            dtype="bfloat16" if precision is Precision.bf16 else "float32",
            max_model_len=config.context_tokens,
            max_num_seqs=config.max_concurrent_rollouts,
            tensor_parallel_size=config.tensor_parallel_size,
            # The actor holds the accelerators of all its shards; vLLM would ask Ray for others.
            distributed_executor_backend="uni" if config.tensor_parallel_size == 1 else "mp",
            gpu_memory_utilization=config.accelerator_memory_fraction,
            kv_cache_memory_bytes=config.kv_cache_bytes,
            enforce_eager=config.eager,
            enable_sleep_mode=self.sleeps,
            # Logprobs of the distribution sampled from: after bans and temperature.
            logprobs_mode="processed_logprobs",
            logits_processors=[BanTokens] if banned_token_ids else [],
            additional_config={BANNED_TOKEN_IDS: list(banned_token_ids)},
            weight_transfer_config=WeightTransferConfig(backend=BUCKETS),
            worker_extension_cls=f"{WorkerExtension.__module__}.{WorkerExtension.__name__}",
            disable_log_stats=True,
            **whole_prefills(config.context_tokens),
        )
        engine = LLMEngine.from_engine_args(arguments)
        engine.collective_rpc("init_weight_transfer_engine", kwargs={"init_info": {}})
        engine.set_weight_version("0")
        self.stop_token_ids = list(stop_token_ids)
        self.tokenizer = engine.get_tokenizer()
        self.thread = EngineThread(engine)
        self.thread.start()
        self.request_ids = (str(i) for i in itertools.count())

    async def generate(self, token_ids: Sequence[int], sampling: Sampling) -> Completion:
        params = SamplingParams(
            temperature=sampling.temperature,
            max_tokens=sampling.max_tokens,
            seed=sampling.seed,
            stop_token_ids=self.stop_token_ids,
            logprobs=0,
            flat_logprobs=True,
            detokenize=False,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )
        output = await self.thread.request(next(self.request_ids), token_ids, params)
        completion = output.outputs[0]
        chosen: np.ndarray = np.array(completion.token_ids, dtype=np.int32)
        versions: np.ndarray = np.empty(len(chosen), dtype=np.int32)
        for span in completion.weight_versions:
            versions[span.start : span.end] = int(span.version)
        return Completion(
            token_ids=chosen,
            logprobs=np.array(completion.logprobs.logprobs, dtype=np.float32),
            versions=versions,
            stop=completion.finish_reason,
            text=self.tokenizer.decode(completion.token_ids, skip_special_tokens=True),
        )

    async def logprobs(self, token_ids: Sequence[int]) -> np.ndarray:
        """[T] float32 of the model itself: temperature 1, no bans. 0 for the first token."""
        params = SamplingParams(max_tokens=1, prompt_logprobs=0, flat_logprobs=True, detokenize=False,
                                output_kind=RequestOutputKind.FINAL_ONLY)  # fmt: skip
        output = await self.thread.request(next(self.request_ids), token_ids, params)
        positions = zip(token_ids[1:], output.prompt_logprobs[1:], strict=True)
        return np.array([0.0, *(position[token].logprob for token, position in positions)], dtype=np.float32)

    async def connect(self, link: Link, first_rank: int) -> None:
        init_info = {"link": link, "first_rank": first_rank}
        rpc = self.thread.engine.collective_rpc
        await self.thread.do(lambda: rpc("init_weight_transfer_engine", kwargs={"init_info": init_info}))

    async def offload(self) -> int:
        def sleep() -> int:
            if self.sleeps:
                self.thread.engine.sleep(level=1)
                self.asleep = ["weights", "kv_cache"]
            return used_bytes()

        return await self.thread.do(sleep)

    async def onload(self) -> int:
        def wake() -> int:
            self.wake(["weights", "kv_cache"])
            return used_bytes()

        return await self.thread.do(wake)

    def wake(self, tags: Sequence[str]) -> None:
        """What of `tags` is asleep; vLLM maps memory a second time that is awake."""
        if wanted := [tag for tag in tags if tag in self.asleep]:
            self.thread.engine.wake_up(wanted)
            self.asleep = [tag for tag in self.asleep if tag not in wanted]

    async def load_begin(self) -> None:
        def begin() -> None:
            self.thread.paused = True
            self.wake(["weights"])
            self.thread.engine.collective_rpc("start_weight_update")

        await self.thread.do(begin)

    async def load(self, bucket: Bucket) -> None:
        rpc = self.thread.engine.collective_rpc
        await self.thread.do(lambda: rpc("update_weights", kwargs={"update_info": {"bucket": bucket}}))

    async def load_finish(self, version: int) -> None:
        def finish() -> None:
            engine = self.thread.engine
            engine.collective_rpc("finish_weight_update")
            engine.set_weight_version(str(version))
            # Cached keys and values are of the old weights, those of running requests too.
            engine.reset_prefix_cache(reset_running_requests=True)
            self.thread.paused = False

        await self.thread.do(finish)

    async def memory(self) -> int:
        return max(await self.thread.do(lambda: self.thread.engine.collective_rpc("peak_memory_bytes")))

    async def close(self) -> None:
        """End the engine and, with tensor parallelism, its worker processes and their shared memory."""
        await self.thread.do(self.thread.engine.engine_core.shutdown)

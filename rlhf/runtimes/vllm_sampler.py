"""A vLLM engine in this process, stepped by a thread of its own."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np

from rlhf.runtimes.vllm_environment import whole_prefills

# isort: split
from vllm import EngineArgs, SamplingParams
from vllm.config import WeightTransferConfig
from vllm.platforms import current_platform
from vllm.sampling_params import RequestOutputKind
from vllm.usage.usage_lib import UsageContext
from vllm.v1.engine.llm_engine import LLMEngine

from rlhf.models.lora import LoRAConfig
from rlhf.models.tokenizer import completion_text
from rlhf.runtimes.buckets import Bucket
from rlhf.runtimes.configs import Precision, SamplerConfig
from rlhf.runtimes.memory import used_bytes
from rlhf.runtimes.transport import Link
from rlhf.runtimes.vllm_bans import BANNED_TOKEN_IDS, BanTokens
from rlhf.runtimes.vllm_thread import EngineThread
from rlhf.runtimes.vllm_updates import AdapterAlone, WeightUpdates, WholeWeights
from rlhf.runtimes.vllm_weights import BUCKETS, WorkerExtension
from rlhf.types import Completion, RunError, Sampling

KEEP_WEIGHTS, DISCARD_WEIGHTS = 1, 2
"""Levels of vLLM's sleep: weights go to host memory, or nowhere."""
USAGE = UsageContext.LLM_CLASS
"""Usage context for many prompts at once, whose steps take two to eight times the tokens of an online server's: after
each sync all running requests are computed again."""


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
        lora: LoRAConfig | None = None,
    ) -> None:
        """`lora`: the adapter whose versions are loaded in place of whole weights."""
        # On a CPU vLLM cannot give memory back: an engine that shares one stays.
        self.sleeps = takes_turns and current_platform.is_sleep_mode_available()
        self.asleep: list[str] = []
        self.expecting = self.updating = False
        self.updates: WeightUpdates = WholeWeights() if lora is None else AdapterAlone(model_path, lora)
        self.arguments = engine_arguments(
            model_path, config, precision, banned_token_ids, sleeps=self.sleeps, updates=self.updates
        )
        self.stop_token_ids = list(stop_token_ids)
        self.thread = EngineThread(self.build)
        self.thread.start()
        self.tokenizer = self.thread.engine.get_tokenizer()
        self.request_ids = (str(i) for i in itertools.count())

    def build(self) -> LLMEngine:
        try:
            engine = LLMEngine.from_engine_args(self.arguments, usage_context=USAGE)
        except Exception as error:
            raise RunError(
                f"vLLM starts no engine for model {self.arguments.model!r}: {' '.join(str(error).split())[:300]}; the "
                "worker's log says more; Qwen3 and Llama are known to run"
            ) from error
        engine.collective_rpc("init_weight_transfer_engine", kwargs={"init_info": {}})
        engine.set_weight_version("0")
        return engine

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
            text=completion_text(self.tokenizer, completion.token_ids, self.stop_token_ids),
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

    async def expect_weights(self) -> None:
        """New weights come before the next request: the next `offload` need not keep the old ones, unless they are the
        base of an adapter."""
        self.expecting = self.updates.whole

    async def offload(self) -> int:
        def sleep() -> int:
            if self.updating:
                raise RunError(
                    "weight sync: the engine was asked to give its memory back while its weights are replaced; a role "
                    "on its accelerators took them without waiting for the sync to end: resume the run"
                )
            if self.sleeps:
                # Nobody waits for those that still run: their callers would hold the accelerators.
                self.thread.abort(list(self.thread.requests))
                self.thread.engine.sleep(level=DISCARD_WEIGHTS if self.expecting else KEEP_WEIGHTS)
                self.asleep = ["weights", "kv_cache"]
            return used_bytes()

        return await self.thread.do(sleep)

    async def onload(self) -> int:
        def wake() -> int:
            if "weights" in self.asleep and self.expecting:
                raise RunError(
                    "weight sync: the engine gave up its weights for new ones and was asked before they came; resume "
                    "the run"
                )
            self.wake(["weights", "kv_cache"])
            return used_bytes()

        return await self.thread.do(wake)

    def wake(self, tags: Sequence[str]) -> None:
        """Wake those of `tags` that are asleep; vLLM would map awake memory a second time."""
        if wanted := [tag for tag in tags if tag in self.asleep]:
            self.thread.engine.wake_up(wanted)
            self.asleep = [tag for tag in self.asleep if tag not in wanted]

    async def load_begin(self) -> None:
        def begin() -> None:
            self.thread.paused = self.updating = True
            self.wake(["weights"])
            self.updates.begin(self.thread.engine)

        await self.thread.do(begin)

    async def load(self, bucket: Bucket) -> None:
        await self.thread.do(lambda: self.updates.receive(self.thread.engine, bucket))

    async def load_finish(self, version: int) -> None:
        def finish() -> None:
            engine = self.thread.engine
            self.thread.adapter = self.updates.finish(engine, version)
            engine.set_weight_version(str(version))
            # Cached keys and values are of the old weights, those of running requests too.
            engine.reset_prefix_cache(reset_running_requests=True)
            self.thread.paused = self.updating = self.expecting = False

        await self.thread.do(finish)

    async def memory(self) -> int:
        return max(await self.thread.do(lambda: self.thread.engine.collective_rpc("peak_memory_bytes")))

    async def close(self) -> None:
        """End the engine and, with tensor parallelism, its worker processes and their shared memory."""
        await self.thread.do(self.thread.engine.engine_core.shutdown)


def engine_arguments(
    model_path: str,
    config: SamplerConfig,
    precision: Precision,
    banned_token_ids: Sequence[int],
    *,
    sleeps: bool,
    updates: WeightUpdates,
) -> EngineArgs:
    """Return vLLM's arguments of a rollout engine."""
    return EngineArgs(
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
        enable_sleep_mode=sleeps,
        # Logprobs of the distribution sampled from: after bans and temperature.
        logprobs_mode="processed_logprobs",
        logits_processors=[BanTokens] if banned_token_ids else [],
        additional_config={BANNED_TOKEN_IDS: list(banned_token_ids)},
        weight_transfer_config=WeightTransferConfig(backend=BUCKETS),
        worker_extension_cls=f"{WorkerExtension.__module__}.{WorkerExtension.__name__}",
        disable_log_stats=True,
        **whole_prefills(config.context_tokens),
        **updates.arguments,
    )

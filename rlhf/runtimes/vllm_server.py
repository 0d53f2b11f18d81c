"""A vLLM engine behind vLLM's own OpenAI handlers, without its HTTP server: that one leaves routes open."""

from __future__ import annotations

import asyncio
from argparse import Namespace
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from typing import Any

from rlhf.runtimes.vllm_environment import whole_prefills

# isort: split
import torch
from pydantic import ValidationError
from starlette.datastructures import State
from vllm import AsyncEngineArgs
from vllm.entrypoints.launchers.api_server.app_state import init_app_state
from vllm.entrypoints.launchers.cli_args import make_arg_parser
from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
from vllm.entrypoints.openai.completion.protocol import CompletionRequest
from vllm.entrypoints.serve.engine.protocol import ErrorResponse
from vllm.entrypoints.serve.exception_handling.error_response import create_error_response
from vllm.entrypoints.serve.lora.protocol import LoadLoRAAdapterRequest
from vllm.exceptions import VLLMError
from vllm.utils.argparse_utils import FlexibleArgumentParser
from vllm.v1.engine.async_llm import AsyncLLM
from vllm.v1.engine.exceptions import EngineDeadError

from rlhf.runtimes.configs import Precision, ServerConfig
from rlhf.runtimes.protocols import EngineDied
from rlhf.runtimes.vllm_parsers import check_parsers
from rlhf.types import InputError

Answer = tuple[int, Any]
"""HTTP status and body; a body of None is followed by server-sent events."""
PARSER_OPTION = "--tool-call-parser"
"""Named by vLLM's refusals of tools where there is no parser of their calls."""


def arguments_of(model: str, name: str, config: ServerConfig) -> Namespace:
    """Return the arguments as vLLM's command line would parse them."""
    arguments = make_arg_parser(FlexibleArgumentParser()).parse_args([])
    chosen = {
        "model": model,
        "served_model_name": [name],
        "dtype": "bfloat16" if config.precision is Precision.bf16 else "float32",
        "max_model_len": config.context_tokens,
        "max_num_seqs": config.max_num_seqs,
        "tensor_parallel_size": config.tensor_parallel_size,
        # The replica holds the accelerators of all its shards; vLLM would ask Ray for others.
        "distributed_executor_backend": "uni" if config.tensor_parallel_size == 1 else "mp",
        "gpu_memory_utilization": config.accelerator_memory_fraction,
        "kv_cache_memory_bytes": config.kv_cache_bytes,
        "enforce_eager": config.eager or not torch.cuda.is_available(),
        "enable_lora": config.max_adapters > 0,
        "max_loras": max(config.max_adapters, 1),
        "max_lora_rank": config.max_adapter_rank,
        "enable_auto_tool_choice": config.tool_call_parser is not None,
        "tool_call_parser": config.tool_call_parser,
        "reasoning_parser": config.reasoning_parser or "",
        "disable_log_stats": True,
        **whole_prefills(config.context_tokens),
    }
    for key, value in chosen.items():
        assert hasattr(arguments, key), key
        setattr(arguments, key, value)
    return arguments


def in_our_words(refusal: ErrorResponse) -> ErrorResponse:
    """Add what is configured here to a refusal that names an option of vLLM's command line."""
    if PARSER_OPTION in refusal.error.message:
        refusal.error.message += "; in this service that is engine.tool_call_parser=NAME, as in hermes for Qwen3"
    return refusal


class VLLMServer:
    """Answers OpenAI requests for one model and the adapters beside it."""

    def __init__(self, model: str, name: str, config: ServerConfig) -> None:
        check_parsers(model, config)
        self.arguments = arguments_of(model, name, config)
        self.state = State()
        self.loading = asyncio.Lock()
        self.engine = AsyncLLM.from_engine_args(AsyncEngineArgs.from_cli_args(self.arguments))

    async def start(self) -> None:
        """Make the handlers, and see by one token that the engine works."""
        tasks = await self.engine.get_supported_tasks()
        await init_app_state(self.engine, self.state, self.arguments, tasks)
        body = {"model": self.arguments.served_model_name[0], "prompt": [0], "max_tokens": 1}
        async for status, answer in self.answer("completion", body, "ready"):
            if status != 200:
                raise InputError(f"model {self.arguments.model}: vLLM does not serve it: {answer['error']['message']}")

    async def answer(self, endpoint: str, body: Mapping[str, Any], request_id: str) -> AsyncIterator[Answer]:
        """The status with the whole body; of a streamed answer (200, None) once its first token is sampled, then
        its events, each (200, text).

        Closing the iterator ends the generation. Raises EngineDied.
        """
        try:
            answer = await self.handle(endpoint, {**body, "request_id": request_id})
        except EngineDeadError as error:
            raise EngineDied(str(error)) from None
        except (ValueError, TypeError, OverflowError, NotImplementedError, VLLMError, ValidationError) as error:
            answer = create_error_response(error)
        if isinstance(answer, ErrorResponse):
            yield answer.error.code, in_our_words(answer).model_dump()
        elif isinstance(answer, AsyncGenerator):
            begun = False
            async for event in answer:
                # vLLM's handlers make an event of any error.
                if self.engine.errored:
                    raise EngineDied(f"in the middle of {request_id}")
                if not begun:
                    yield 200, None
                begun = True
                yield 200, event
        else:
            yield 200, answer.model_dump()

    async def handle(self, endpoint: str, body: Mapping[str, Any]) -> Any:
        if endpoint == "chat":
            return await self.state.openai_serving_chat.create_chat_completion(
                ChatCompletionRequest.model_validate(body)
            )
        return await self.state.openai_serving_completion.create_completion(CompletionRequest.model_validate(body))

    async def hold_adapter(self, name: str, folder: str) -> None:
        """See that requests can name this adapter. InputError if vLLM cannot load it."""
        models = self.state.openai_serving_models
        async with self.loading:
            if name in models.lora_requests:
                return
            result = await models.load_lora_adapter(LoadLoRAAdapterRequest(lora_name=name, lora_path=folder))
        if isinstance(result, ErrorResponse):
            raise InputError(f"adapter {name} in {folder}: {result.error.message}")

    async def check_health(self) -> None:
        """Raise the error by which the engine has died."""
        await self.engine.check_health()

    def close(self) -> None:
        self.engine.shutdown()

"""vLLM's parsers of tool calls and of reasoning, checked before an engine starts."""

from __future__ import annotations

import os

import rlhf.runtimes.vllm_environment  # noqa: F401

# vLLM's import would replace the handlers of other libraries' logs, in whatever process checks a configuration.
os.environ.setdefault("VLLM_CONFIGURE_LOGGING", "0")

# isort: split
from vllm.parser import ParserManager
from vllm.reasoning import ReasoningParserManager
from vllm.tokenizers import get_tokenizer
from vllm.tool_parsers import ToolParserManager

from rlhf.runtimes.configs import ServerConfig
from rlhf.types import InputError


def check_parsers(model: str, config: ServerConfig) -> None:
    """Raise InputError if vLLM has no parser of a name, or the model's tokenizer lacks what a parser needs."""
    chosen = {
        "engine.tool_call_parser": (config.tool_call_parser, ToolParserManager.list_registered()),
        "engine.reasoning_parser": (config.reasoning_parser, ReasoningParserManager.list_registered()),
    }
    for key, (name, known) in chosen.items():
        if name is not None and name not in known:
            raise InputError(f"{key}={name}: vLLM has no such parser; give null for none, or one of {', '.join(known)}")
    if config.tool_call_parser is None and config.reasoning_parser is None:
        return
    try:
        ParserManager.get_parser(
            config.tool_call_parser,
            config.reasoning_parser,
            enable_auto_tools=config.tool_call_parser is not None,
            model_name=model,
            tokenizer=get_tokenizer(model),
        )
    except TypeError as error:
        given = ", ".join(f"{key}={name}" for key, (name, _) in chosen.items() if name is not None)
        raise InputError(f"{given}: {error}; give the parser of this model's family, or null") from None

"""Parsers of tool calls and reasoning that a served model is given: vLLM's own arguments and checks."""

import pytest

from rlhf.runtimes.configs import ServerConfig
from rlhf.types import InputError


@pytest.mark.parametrize("key", ["tool_call_parser", "reasoning_parser"])
def test_a_parser_that_vllm_does_not_have_is_refused_with_those_it_has(models, key):
    from rlhf.runtimes.vllm_parsers import check_parsers

    with pytest.raises(InputError, match=rf"^engine\.{key}=hermez: vLLM has no such parser; .*\bqwen3") as refused:
        check_parsers(str(models["tied"]), ServerConfig(**{key: "hermez"}))
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("key", "name", "missing"),
    [("tool_call_parser", "llama3_json", "--tool-call-parser"), ("reasoning_parser", "deepseek_r1", "--reasoning-p")],
)
def test_a_parser_of_another_family_is_refused(models, key, name, missing):
    from rlhf.runtimes.vllm_parsers import check_parsers

    with pytest.raises(InputError, match=rf"^engine\.{key}={name}: {missing}.* cannot be used with the tokenizer"):
        check_parsers(str(models["tied"]), ServerConfig(**{key: name}))


@pytest.mark.parametrize("parsers", [{}, {"tool_call_parser": "hermes"}])
def test_vllm_reads_the_parsers_as_its_command_line_would(models, parsers):
    from vllm import AsyncEngineArgs
    from vllm.entrypoints.launchers.cli_args import validate_parsed_serve_args

    from rlhf.runtimes.vllm_parsers import check_parsers
    from rlhf.runtimes.vllm_server import arguments_of

    check_parsers(str(models["tied"]), ServerConfig(**parsers))
    arguments = arguments_of(str(models["tied"]), "one", ServerConfig(context_tokens=64, **parsers))
    validate_parsed_serve_args(arguments)
    assert (arguments.tool_call_parser, arguments.enable_auto_tool_choice) == (
        parsers.get("tool_call_parser"),
        bool(parsers),
    )
    assert AsyncEngineArgs.from_cli_args(arguments).reasoning_parser == ""


def test_a_reasoning_parser_reaches_vllms_handlers(models):
    """They read it where the engine's arguments put it."""
    from vllm import AsyncEngineArgs

    from rlhf.runtimes.vllm_server import arguments_of

    arguments = arguments_of(str(models["tied"]), "one", ServerConfig(context_tokens=64, reasoning_parser="qwen3"))
    AsyncEngineArgs.from_cli_args(arguments).create_structured_outputs_config()
    assert arguments.structured_outputs_config.reasoning_parser == "qwen3"


def test_a_refusal_of_tools_says_what_is_configured_here():
    from vllm.entrypoints.serve.exception_handling.error_response import create_error_response

    from rlhf.runtimes.vllm_server import in_our_words

    refusal = '"auto" tool choice requires --enable-auto-tool-choice and --tool-call-parser to be set'
    ours = in_our_words(create_error_response(refusal)).error.message
    assert ours == f"{refusal}; in this service that is engine.tool_call_parser=NAME, as in hermes for Qwen3"
    assert in_our_words(create_error_response("too long")).error.message == "too long"

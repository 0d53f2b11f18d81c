"""What vLLM is told on a GPU machine, seen on any: its own checks accept it."""

from types import SimpleNamespace

import pytest
import torch

from rlhf.runtimes.configs import Precision, SamplerConfig
from rlhf.runtimes.vllm_bans import BANNED_TOKEN_IDS, BanTokens

CONFIG = SimpleNamespace(additional_config={BANNED_TOKEN_IDS: [1, 3]})


@pytest.mark.parametrize(
    "arguments", [(torch.device("cpu"), False), (SimpleNamespace(device=torch.device("cpu")),)], ids=["V1", "V2"]
)
def test_both_model_runners_ban_tokens(arguments):
    bans = BanTokens(CONFIG, *arguments)
    context = [] if len(arguments) == 2 else [SimpleNamespace()]
    logits = bans.apply(torch.zeros(2, 5), *context)
    assert logits.isneginf().tolist() == [[False, True, False, True, False]] * 2


def test_both_loaders_take_the_class():
    from vllm import SamplingParams
    from vllm.v1.sample.logits_processor import validate_logits_processors_parameters
    from vllm.v1.worker.gpu.sample.logits_processor import build_custom_logits_processors_params_validator

    build_custom_logits_processors_params_validator([BanTokens])(SamplingParams())
    validate_logits_processors_parameters([BanTokens], SamplingParams())


def test_an_engine_runs_under_the_second_model_runner_where_triton_is(models, monkeypatch):
    from rlhf.runtimes.vllm_sampler import USAGE, engine_arguments
    from rlhf.runtimes.vllm_updates import WholeWeights

    sampler = SamplerConfig(context_tokens=64, kv_cache_bytes=32 << 20, accelerator_memory_fraction=0.1)
    arguments = engine_arguments(
        str(models["tied"]), sampler, Precision.bf16, [0, 2], sleeps=False, updates=WholeWeights()
    )
    config = arguments.create_engine_config(USAGE)
    assert not config.use_v2_model_runner
    monkeypatch.setattr("vllm.config.vllm.HAS_TRITON", True)
    assert config._get_v2_model_runner_unsupported_features() == []
    assert config.use_v2_model_runner
    assert config.model_config.logits_processors == [BanTokens]


GIB = 1 << 30


@pytest.mark.parametrize(
    ("name", "memory", "tokens", "others"),
    [("NVIDIA H100 80GB HBM3", 80 * GIB, 16384, 8192), ("NVIDIA A100-SXM4-80GB", 80 * GIB, 8192, 2048)],
)
def test_a_step_on_a_gpu_takes_the_tokens_of_a_class_for_many_prompts(
    models, monkeypatch, name, memory, tokens, others
):
    """vLLM's default for engines that say nothing is 2048: nothing of ours is in the way of its larger one."""
    from vllm.usage.usage_lib import UsageContext

    from rlhf.runtimes.vllm_sampler import USAGE, engine_arguments
    from rlhf.runtimes.vllm_updates import WholeWeights

    with monkeypatch.context() as machine:
        machine.setattr("torch.cuda.is_available", lambda: True)
        arguments = engine_arguments(
            str(models["tied"]), SamplerConfig(), Precision.bf16, [], sleeps=True, updates=WholeWeights()
        )
    assert arguments.max_num_batched_tokens is None
    assert arguments.enable_chunked_prefill is None
    gpu = SimpleNamespace(
        get_device_total_memory=lambda: memory, get_device_name=lambda: name, is_tpu=lambda: False, is_cpu=lambda: False
    )
    monkeypatch.setattr("vllm.engine.arg_utils.current_platform", gpu)
    defaults, _ = arguments.get_batch_defaults(world_size=1)
    assert (defaults[USAGE], defaults[UsageContext.OPENAI_API_SERVER]) == (tokens, others)


@pytest.mark.parametrize(("context", "tokens"), [(64, 4096), (8192, 8192)])
def test_a_step_on_a_cpu_takes_the_longest_prompt_whole(models, context, tokens):
    from rlhf.runtimes.vllm_sampler import USAGE, engine_arguments
    from rlhf.runtimes.vllm_updates import WholeWeights

    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    sampler = SamplerConfig(context_tokens=context, kv_cache_bytes=32 << 20, accelerator_memory_fraction=0.1)
    arguments = engine_arguments(str(models["tied"]), sampler, Precision.bf16, [], sleeps=False, updates=WholeWeights())
    arguments.hf_overrides = {"max_position_embeddings": 8192}
    scheduler = arguments.create_engine_config(USAGE).scheduler_config
    assert scheduler.max_num_batched_tokens == tokens
    assert not scheduler.enable_chunked_prefill


def test_workers_of_a_busy_machine_have_a_minute_to_end():
    """Killed ones leave shared memory behind."""
    from vllm import envs

    assert envs.VLLM_WORKER_SHUTDOWN_TIMEOUT_SECONDS == 60

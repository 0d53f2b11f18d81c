"""What vLLM is told on a GPU machine, seen on any: its own checks accept it."""

from types import SimpleNamespace

import pytest
import torch

from rlhf.runtimes.base import Precision, SamplerConfig
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
    from vllm.usage.usage_lib import UsageContext

    from rlhf.runtimes.vllm_sampler import engine_arguments

    sampler = SamplerConfig(context_tokens=64, kv_cache_bytes=32 << 20, accelerator_memory_fraction=0.1)
    arguments = engine_arguments(str(models["tied"]), sampler, Precision.bf16, [0, 2], sleeps=False)
    config = arguments.create_engine_config(UsageContext.LLM_CLASS)
    assert not config.use_v2_model_runner
    monkeypatch.setattr("vllm.config.vllm.HAS_TRITON", True)
    assert config._get_v2_model_runner_unsupported_features() == []
    assert config.use_v2_model_runner
    assert config.model_config.logits_processors == [BanTokens]

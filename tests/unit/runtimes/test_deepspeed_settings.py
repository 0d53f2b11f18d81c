"""What DeepSpeed is told on a GPU and on a CPU."""

import pytest
import torch

from rlhf.runtimes.base import BackendConfig, OptimizerConfig
from rlhf.runtimes.deepspeed_backend import deepspeed_config


@pytest.mark.parametrize(
    ("device", "offload", "fused"), [("cuda", False, True), ("cuda", True, False), ("cpu", False, False)]
)
def test_adamw_is_fused_where_its_parameters_are_on_a_gpu(device, offload, fused):
    config = BackendConfig(offload_optimizer=offload)
    settings = deepspeed_config(config, OptimizerConfig(), 1, torch.device(device))
    assert settings["optimizer"]["params"].get("fused", False) is fused
    assert settings["data_types"] == {"grad_accum_dtype": "fp32"}

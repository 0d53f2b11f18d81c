"""What DeepSpeed is told on a GPU and on a CPU."""

import math

import numpy as np
import pytest
import torch
from deepspeed.utils import safe_get_full_grad

from rlhf.models.causal_lm import SamplingDistribution, TokenScorer
from rlhf.models.tiny import build_tiny_model
from rlhf.ops.microbatch import MicroBatch
from rlhf.runtimes.base import BackendConfig, OptimizerConfig, Precision
from rlhf.runtimes.deepspeed_backend import DeepSpeedBackend, deepspeed_config


@pytest.mark.parametrize(
    ("device", "offload", "fused"), [("cuda", False, True), ("cuda", True, False), ("cpu", False, False)]
)
def test_adamw_is_fused_where_its_parameters_are_on_a_gpu(device, offload, fused):
    config = BackendConfig(offload_optimizer=offload)
    settings = deepspeed_config(config, OptimizerConfig(), 1, torch.device(device))
    assert settings["optimizer"]["params"].get("fused", False) is fused
    assert settings["data_types"] == {"grad_accum_dtype": "fp32"}


@pytest.mark.parametrize("zero_stage", [2, 3])
def test_small_gradients_count_beside_large_ones_over_many_micro_batches(zero_stage, one_rank, tmp_path):
    """In bf16 a sum over 32 micro-batches loses what is below 1/256 of it: the norm would be off by 1e-3 and more."""
    build_tiny_model(tmp_path, alphabet="0123456789")
    config = BackendConfig(precision=Precision.bf16, zero_stage=zero_stage)
    optimizer = OptimizerConfig(lr=1e-3, gradient_clipping=0.0)
    backend = DeepSpeedBackend(str(tmp_path), config, optimizer)
    scorer = TokenScorer(SamplingDistribution())
    generator = np.random.default_rng(0)
    rows = [generator.integers(3, 12, 20).astype(np.int32) for _ in range(32)]
    micros = [MicroBatch.from_rows([row], [np.arange(20) > 0], [0.0], {}, packed=True) for row in rows]

    def gradients_of(batches: list[MicroBatch]) -> tuple[dict[str, torch.Tensor], float]:
        for micro in batches:
            backend.backward(backend.forward(micro, scorer, grad=True).logprobs.sum(), last=micro is batches[-1])
        named = {name: safe_get_full_grad(each) for name, each in backend.model.named_parameters()}
        return {name: grad.double() for name, grad in named.items() if grad is not None}, backend.step(0.0)[0]

    alone = [gradients_of([micro])[0] for micro in micros]
    sums = [sum(gradients[name] for gradients in alone) for name in alone[0]]
    expected = math.sqrt(sum(float(each.square().sum()) for each in sums))
    assert gradients_of(micros)[1] == pytest.approx(expected, rel=1e-5)

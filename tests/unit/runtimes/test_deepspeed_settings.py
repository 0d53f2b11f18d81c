"""What DeepSpeed is told on a GPU and on a CPU."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from deepspeed.utils import safe_get_full_grad

from rlhf.models.causal_lm import SamplingDistribution, TokenReadout
from rlhf.models.tiny import build_tiny_model
from rlhf.ops.microbatch import MicroBatch
from rlhf.runtimes.configs import BackendConfig, OptimizerConfig, Precision
from rlhf.runtimes.deepspeed_backend import DeepSpeedBackend, deepspeed_config


@pytest.mark.parametrize(
    ("device", "offload", "fused"), [("cuda", False, True), ("cuda", True, False), ("cpu", False, False)]
)
def test_adamw_is_fused_where_its_parameters_are_on_a_gpu(device, offload, fused):
    config = BackendConfig(offload_optimizer=offload)
    settings = deepspeed_config(config, OptimizerConfig(), 1, torch.device(device))
    assert settings["optimizer"]["params"].get("fused", False) is fused
    assert settings["data_types"] == {"grad_accum_dtype": "fp32"}


STAGES = [(1, False), (2, False), (3, False), (1, True), (2, True), (3, True)]
"""ZeRO stages, with the optimiser's states on the accelerator and on the host."""


@pytest.mark.parametrize(("zero_stage", "offload"), STAGES)
def test_small_gradients_count_beside_large_ones_over_many_micro_batches(zero_stage, offload, one_rank, tmp_path):
    """In bf16 a sum over 32 micro-batches loses what is below 1/256 of it; rounding the sum once loses 1.6e-3."""
    backend, micros = bf16_model(tmp_path, zero_stage, offload)
    alone = [gradients_of(backend, [micro])[0] for micro in micros]
    sums = {name: sum(gradients[name] for gradients in alone) for name in alone[0]}
    expected = math.sqrt(sum(float(each.square().sum()) for each in sums.values()))
    together, norm = gradients_of(backend, micros)
    assert norm == pytest.approx(expected, rel=1e-6)
    lost = math.sqrt(sum(float((each - sums[name]).square().sum()) for name, each in together.items()))
    assert lost < 1e-6 * expected


@pytest.mark.parametrize(("zero_stage", "offload"), STAGES)
def test_a_skipped_step_leaves_nothing_for_the_next(zero_stage, offload, one_rank, tmp_path):
    backend, micros = bf16_model(tmp_path, zero_stage, offload)
    healthy = gradients_of(backend, micros[:2])[1]
    outputs = backend.forward(micros[0], TokenReadout(SamplingDistribution()), grad=True)
    backend.backward(outputs.logprobs.sum() * float("nan"), last=True)
    assert not backend.step(1e-3)[1]
    assert gradients_of(backend, micros[:2])[1] == healthy


def bf16_model(folder: Path, zero_stage: int, offload: bool) -> tuple[DeepSpeedBackend, list[MicroBatch]]:
    """A tiny model, and 32 micro-batches of a row each."""
    build_tiny_model(folder, alphabet="0123456789")
    config = BackendConfig(precision=Precision.bf16, zero_stage=zero_stage, offload_optimizer=offload)
    backend = DeepSpeedBackend(str(folder), config, OptimizerConfig(lr=1e-3, gradient_clipping=0.0))
    generator = np.random.default_rng(0)
    rows = [generator.integers(3, 12, 20).astype(np.int32) for _ in range(32)]
    return backend, [MicroBatch.from_rows([row], [np.arange(20) > 0], [0.0], {}, packed=True) for row in rows]


def gradients_of(backend: DeepSpeedBackend, micros: list[MicroBatch]) -> tuple[dict[str, torch.Tensor], float]:
    """Gradients of micro-batches that are one step, and their norm; the step changes nothing."""
    readout = TokenReadout(SamplingDistribution())
    for micro in micros:
        backend.backward(backend.forward(micro, readout, grad=True).logprobs.sum(), last=micro is micros[-1])
    named = {name: safe_get_full_grad(each) for name, each in backend.model.named_parameters()}
    return {name: grad.double() for name, grad in named.items() if grad is not None}, backend.step(0.0)[0]

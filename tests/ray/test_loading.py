"""What a rank is told to change of a model as it loads reaches its layers, sharded and adapted too."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rlhf.models.lora import LoRAConfig
from rlhf.models.rope import RopeScaling, RopeScalingConfig
from rlhf.runtimes.configs import BackendConfig, OptimizerConfig, Precision
from rlhf.types import TrainingRow
from tests.ray.test_lora import as_microbatch, plain_logprobs, train
from tests.ray.test_sharding import make_rows

LR = 1e-2
YARN = RopeScalingConfig(type=RopeScaling.yarn, factor=4.0)


def scale_on_rank(
    model: str, config: BackendConfig, lora: LoRAConfig | None, row: TrainingRow, folder: Path
) -> tuple[np.ndarray, np.ndarray]:
    from rlhf.models.causal_lm import SamplingDistribution, TokenReadout
    from rlhf.runtimes.deepspeed_backend import DeepSpeedBackend

    backend = DeepSpeedBackend(model, config, OptimizerConfig(lr=LR), lora=lora, rope=YARN)
    train(backend, [make_rows(1, 8)], packed=True)
    backend.save_pretrained(folder)
    micro = as_microbatch([row], packed=True)
    logprobs = micro.flatten(backend.forward(micro, TokenReadout(SamplingDistribution()), grad=False).logprobs)
    (frequencies,) = [buffer for name, buffer in backend.model.named_buffers() if name.endswith(".inv_freq")]
    return logprobs, frequencies.numpy()


@pytest.mark.parametrize("lora", [None, LoRAConfig(rank=4)], ids=["full", "lora"])
@pytest.mark.parametrize(("precision", "atol"), [(Precision.fp32, 5e-6), (Precision.bf16, 3e-2)])
def test_scaled_embeddings_are_trained_and_saved(
    on_ranks: Any, models: dict[str, Path], tmp_path: Path, lora: LoRAConfig | None, precision: Precision, atol: float
) -> None:
    from transformers import AutoModelForCausalLM

    from rlhf.models.causal_lm import context_length, read_model_config

    row = make_rows(5, 1)[0]
    outcomes = on_ranks(scale_on_rank, str(models["tied"]), BackendConfig(precision=precision), lora, row, tmp_path)
    saved = AutoModelForCausalLM.from_pretrained(tmp_path)
    for logprobs, frequencies in outcomes:
        np.testing.assert_array_equal(frequencies, saved.model.rotary_emb.inv_freq.numpy())
        np.testing.assert_allclose(plain_logprobs(saved, row), logprobs, atol=atol)
    assert context_length(read_model_config(str(tmp_path))) == 1024


def noisy_on_rank(model: str, packed: bool) -> list[float]:
    """The shares of a loss that noise is part of."""
    from rlhf.algorithms.sft import SFTLoss
    from rlhf.models.causal_lm import SamplingDistribution, TokenReadout
    from rlhf.models.neftune import NEFTune
    from rlhf.runtimes.deepspeed_backend import DeepSpeedBackend

    config = BackendConfig(precision=Precision.fp32, gradient_checkpointing=True)
    backend = DeepSpeedBackend(model, config, OptimizerConfig(lr=LR), lora=LoRAConfig(rank=4))
    readout = NEFTune(TokenReadout(SamplingDistribution()), alpha=15.0, seed=3)
    losses = []
    for step in range(3):
        readout.step = step
        micro = as_microbatch(make_rows(2, 7)[backend.rank :: backend.num_ranks], packed=packed)
        loss, _ = SFTLoss()(backend.forward(micro, readout, grad=True), micro)
        backend.backward(loss, last=True)
        backend.step(LR)
        losses.append(loss.item())
    return losses


def test_noise_is_the_same_on_any_number_of_ranks(on_ranks: Any, on_one_rank: Any, models: dict[str, Path]) -> None:
    two = np.sum(on_ranks(noisy_on_rank, str(models["tied"]), True), axis=0)
    (one,) = on_one_rank(noisy_on_rank, str(models["tied"]), False)
    np.testing.assert_allclose(two, one, rtol=1e-5)

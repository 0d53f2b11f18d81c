"""An adapter on its way to engines: merged into its base, or alone, without a change of what is trained."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rlhf.models.heads import Head
from rlhf.models.lora import LoRAConfig
from rlhf.runtimes.configs import BackendConfig, OptimizerConfig, Precision
from rlhf.types import TrainingRow
from tests.ray.test_sharding import make_rows

LR = 1e-2


def as_microbatch(row: TrainingRow) -> Any:
    from rlhf.ops.microbatch import MicroBatch

    return MicroBatch.from_rows([row.token_ids], [row.loss_mask], [0.0], {}, packed=False)


def trained(model: str, stage: int, lora: LoRAConfig, head: Head = Head.causal_lm) -> Any:
    from rlhf.runtimes.deepspeed_backend import DeepSpeedBackend

    config = BackendConfig(precision=Precision.fp32, zero_stage=stage, persistence_threshold=0)
    backend = DeepSpeedBackend(model, config, OptimizerConfig(lr=LR), head, lora)
    learn(backend)
    return backend


def learn(backend: Any) -> None:
    from rlhf.models.causal_lm import SamplingDistribution, TokenReadout
    from rlhf.models.value_model import ValueReadout

    micro = as_microbatch(make_rows(1, 1)[0])
    for _ in range(2):
        if backend.head is Head.value:
            loss = (backend.forward(micro, ValueReadout(), grad=True).values - 1).square().sum()
        else:
            readout = TokenReadout(SamplingDistribution())
            loss = -backend.forward(micro, readout, grad=True).logprobs.sum()
        backend.backward(loss / 10, last=True)
        backend.step(LR)


def logprobs(backend: Any) -> np.ndarray:
    from rlhf.models.causal_lm import SamplingDistribution, TokenReadout

    micro = as_microbatch(make_rows(5, 1)[0])
    return micro.flatten(backend.forward(micro, TokenReadout(SamplingDistribution()), grad=False).logprobs)


def sent(backend: Any, *, adapter_alone: bool) -> dict[str, torch.Tensor]:
    from rlhf.runtimes.buckets import unpack

    buckets = backend.weights(50_000, adapter_alone=adapter_alone)
    return {name: tensor.clone() for bucket in buckets for name, tensor in unpack(bucket)}


@pytest.mark.parametrize("stage", [1, 3])
@pytest.mark.parametrize("name", ["tied", "untied"])
def test_the_merged_weights_are_the_trained_model(
    models: dict[str, Path], one_rank: None, name: str, stage: int
) -> None:
    from transformers import AutoModelForCausalLM

    backend = trained(str(models[name]), stage, LoRAConfig(rank=4, target_modules=["q_proj", "down_proj"]))
    expected, adapter = logprobs(backend), backend.adapter()
    weights = sent(backend, adapter_alone=False)
    plain = AutoModelForCausalLM.from_pretrained(models[name])
    base = {name: parameter.clone() for name, parameter in plain.named_parameters()}
    assert weights.keys() == base.keys()
    changed = {name for name, weight in weights.items() if not weight.equal(base[name])}
    assert {each.split(".")[-2] for each in changed} == {"q_proj", "down_proj"}
    plain.load_state_dict(weights, strict=False)
    row = make_rows(5, 1)[0]
    with torch.no_grad():
        logits = plain(input_ids=torch.tensor(row.token_ids, dtype=torch.int64)[None]).logits[0, :-1].log_softmax(-1)
    chosen = logits[range(len(logits)), row.token_ids[1:]].numpy() * row.loss_mask[1:]
    np.testing.assert_allclose(expected[1:], chosen, atol=5e-6)
    # Sending changes nothing of what is trained.
    assert (logprobs(backend) == expected).all()
    assert all(tensor.equal(adapter[name]) for name, tensor in backend.adapter().items())


@pytest.mark.parametrize("stage", [2, 3])
def test_the_adapter_alone_is_peft_s_file(models: dict[str, Path], one_rank: None, stage: int) -> None:
    backend = trained(str(models["tied"]), stage, LoRAConfig(rank=4))
    alone, adapter = sent(backend, adapter_alone=True), backend.adapter()
    assert alone.keys() == adapter.keys()
    assert all(tensor.equal(adapter[name]) for name, tensor in alone.items())
    assert any(tensor.any() for name, tensor in alone.items() if "lora_B" in name)


@pytest.mark.parametrize("head", [Head.causal_lm, Head.value])
def test_layouts_are_exact_with_an_adapter(models: dict[str, Path], one_rank: None, head: Head) -> None:
    from rlhf.models.causal_lm import SamplingDistribution, TokenReadout
    from rlhf.models.value_model import ValueReadout
    from rlhf.train.layout import measure_exactness

    backend = trained(str(models["tied"]), 2, LoRAConfig(rank=4), head)
    readout = ValueReadout() if head is Head.value else TokenReadout(SamplingDistribution())
    measured = measure_exactness(backend, readout, 40)
    assert measured.packed_is_exact(Precision.fp32)
    assert measured.padded_is_exact(Precision.fp32)


@pytest.mark.parametrize("head", [Head.causal_lm, Head.value])
def test_a_learner_with_an_adapter_leaves_its_accelerator_and_comes_back(
    models: dict[str, Path], one_rank: None, head: Head
) -> None:
    found = []
    for moves in (0, 2):
        backend = trained(str(models["tied"]), 3, LoRAConfig(rank=4), head)
        for _ in range(moves):
            assert backend.offload() > 0
            assert backend.onload() > 0
            learn(backend)
        if not moves:
            learn(backend)
            learn(backend)
        found.append(backend.adapter())
    stayed, moved = found
    assert stayed.keys() == moved.keys()
    assert all(tensor.equal(moved[name]) for name, tensor in stayed.items())

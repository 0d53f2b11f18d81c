"""Adapters under ZeRO 1 to 3 on one or two ranks: they equal plain peft, resume bit for bit, and load everywhere."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rlhf.models.heads import Head
from rlhf.models.lora import LoRAConfig
from rlhf.runtimes.configs import BackendConfig, OptimizerConfig, Precision
from rlhf.types import TrainingRow
from tests.oracles import adamw
from tests.ray.test_sharding import make_rows

LR = 1e-2
LORA = LoRAConfig(rank=4, alpha=8.0)
SETTINGS = [
    {"zero_stage": 1, "packed": True},
    {"zero_stage": 2, "packed": False},
    {"zero_stage": 3, "packed": True},
    {"zero_stage": 3, "packed": True, "persistence_threshold": 0, "gradient_checkpointing": True},
]


def as_microbatch(rows: Sequence[TrainingRow], *, packed: bool) -> Any:
    from rlhf.ops.microbatch import MicroBatch

    ids, masks = [row.token_ids for row in rows], [row.loss_mask for row in rows]
    return MicroBatch.from_rows(ids, masks, [0.0] * len(rows), {}, packed=packed) if rows else MicroBatch.empty()


def train(backend: Any, steps: Sequence[Sequence[TrainingRow]], *, packed: bool) -> tuple[list[float], list[float]]:
    """This rank's shares of the losses, and the gradient norms. Rows are dealt one by one, in two micro-batches."""
    from rlhf.algorithms.sft import SFTLoss
    from rlhf.models.causal_lm import SamplingDistribution, TokenReadout

    losses, norms = [], []
    for rows in steps:
        count = sum(int(row.loss_mask.sum()) for row in rows)
        mine = rows[backend.rank :: backend.num_ranks]
        total = 0.0
        for half in range(2):
            micro = as_microbatch(mine[half::2], packed=packed)
            loss, _ = SFTLoss()(backend.forward(micro, TokenReadout(SamplingDistribution()), grad=True), micro)
            backend.backward(loss / count, last=half == 1)
            total += loss.item() / count
        norms.append(backend.step(LR)[0])
        losses.append(total)
    return losses, norms


def run_on_rank(
    model: str, config: BackendConfig, steps: list[list[TrainingRow]], row: TrainingRow, folder: Path
) -> dict[str, Any]:
    from rlhf.models.causal_lm import SamplingDistribution, TokenReadout
    from rlhf.runtimes.deepspeed_backend import DeepSpeedBackend

    def logprobs(backend: Any) -> np.ndarray:
        micro = as_microbatch([row], packed=config.packed)
        return micro.flatten(backend.forward(micro, TokenReadout(SamplingDistribution()), grad=False).logprobs)

    backend = DeepSpeedBackend(model, config, OptimizerConfig(lr=LR), lora=LORA)
    before = logprobs(backend)
    early = train(backend, steps[:2], packed=config.packed)
    backend.save(folder / "checkpoint")
    with backend.without_adapter():
        reference = logprobs(backend)
    late = train(backend, steps[2:], packed=config.packed)
    adapter = {name: p.numpy() for name, p in backend.adapter().items()}
    backend.save_pretrained(folder / "model")
    resumed = DeepSpeedBackend(model, config, OptimizerConfig(lr=LR), lora=LORA)
    resumed.load(folder / "checkpoint")
    resumed_late = train(resumed, steps[2:], packed=config.packed)
    return {
        "losses": early[0] + late[0],
        "norms": early[1] + late[1],
        "late": late,
        "resumed_late": resumed_late,
        "adapter": adapter,
        "resumed_adapter": {name: p.numpy() for name, p in resumed.adapter().items()},
        "before": before,
        "reference": reference,
        "after": logprobs(backend),
        "moments": sum(
            moment.numel()
            for state in backend.engine.optimizer.optimizer.state.values()
            for name, moment in state.items()
            if name == "exp_avg"
        ),
    }


@pytest.fixture(scope="module")
def steps() -> list[list[TrainingRow]]:
    return [make_rows(seed, 9) for seed in range(4)]


@pytest.fixture(scope="module")
def expected(models: dict[str, Path], steps: list[list[TrainingRow]]) -> tuple[list[float], list[float], Any]:
    """Plain peft and AdamW in one process."""
    import peft
    import torch

    from rlhf.models.adapters import ADAPTER_SEED

    def with_adapter(model: Any) -> Any:
        torch.manual_seed(ADAPTER_SEED)
        settings = peft.LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM")
        return peft.get_peft_model(model, settings)

    rows = [[(row.token_ids, row.loss_mask) for row in step] for step in steps]
    return adamw.train(str(models["tied"]), rows, lr=LR, clipping=1.0, prepare=with_adapter)


@pytest.fixture(scope="module", params=[(2, case) for case in SETTINGS] + [(1, SETTINGS[2])], ids=str)
def run(
    request: Any, models: dict[str, Path], steps: list[list[TrainingRow]], tmp_path_factory: Any
) -> tuple[list[dict[str, Any]], Path]:
    num_ranks, case = request.param
    ranks = request.getfixturevalue("on_ranks" if num_ranks == 2 else "on_one_rank")
    folder = tmp_path_factory.mktemp("lora")
    config = BackendConfig(precision=Precision.fp32, **case)
    return ranks(run_on_rank, str(models["tied"]), config, steps, make_rows(5, 1)[0], folder), folder


def test_ranks_equal_plain_peft_in_one_process(run: Any, expected: Any) -> None:
    ranks, _ = run
    losses, norms, weights = expected
    np.testing.assert_allclose(np.sum([rank["losses"] for rank in ranks], axis=0), losses, atol=5e-6)
    np.testing.assert_allclose(ranks[0]["norms"], norms, rtol=1e-5)
    assert all(rank["norms"] == ranks[0]["norms"] for rank in ranks)
    adapter = ranks[0]["adapter"]
    assert {name.replace(".default", "") for name in weights} == adapter.keys()
    for name, value in weights.items():
        np.testing.assert_allclose(adapter[name.replace(".default", "")], value, atol=5e-5, err_msg=name)
    assert all(rank["adapter"] == {} for rank in ranks[1:])


def test_adapters_alone_are_optimised(run: Any) -> None:
    ranks, _ = run
    whole = sum(value.size for value in ranks[0]["adapter"].values())
    held = sum(rank["moments"] for rank in ranks)
    assert whole <= held < 1.1 * whole


def test_training_resumes_bit_for_bit(run: Any) -> None:
    for rank in run[0]:
        assert rank["resumed_late"] == rank["late"]
        assert rank["adapter"].keys() == rank["resumed_adapter"].keys()
        assert all((rank["adapter"][name] == rank["resumed_adapter"][name]).all() for name in rank["adapter"])


def plain_logprobs(model: Any, row: TrainingRow) -> np.ndarray:
    import torch

    ids = torch.tensor(row.token_ids, dtype=torch.int64).unsqueeze(0)
    with torch.no_grad():
        logprobs = model.eval()(input_ids=ids).logits[0, :-1].float().log_softmax(-1)
    chosen = logprobs[torch.arange(len(row.token_ids) - 1), ids[0, 1:]].numpy()
    return np.concatenate([[0.0], chosen * row.loss_mask[1:]])


def test_the_model_without_its_adapter_is_the_base(run: Any, models: dict[str, Path]) -> None:
    from transformers import AutoModelForCausalLM

    base = plain_logprobs(AutoModelForCausalLM.from_pretrained(models["tied"]), make_rows(5, 1)[0])
    for rank in run[0]:
        np.testing.assert_allclose(rank["before"], base, atol=1e-6)
        np.testing.assert_allclose(rank["reference"], base, atol=1e-6)
        assert np.abs(rank["after"] - base).max() > 0.1


def test_merged_model_and_adapter_load_and_generate(run: Any, models: dict[str, Path]) -> None:
    import json

    import torch
    from peft import AutoPeftModelForCausalLM
    from transformers import AutoModelForCausalLM

    ranks, folder = run
    adapter = folder / "model" / "adapter"
    assert sorted(path.name for path in adapter.iterdir()) == ["adapter_config.json", "adapter_model.safetensors"]
    assert json.loads((adapter / "adapter_config.json").read_text())["base_model_name_or_path"] == str(models["tied"])
    loaded = [
        AutoModelForCausalLM.from_pretrained(folder / "model"),
        AutoModelForCausalLM.from_pretrained(adapter),
        AutoPeftModelForCausalLM.from_pretrained(adapter),
    ]
    for model in loaded:
        np.testing.assert_allclose(plain_logprobs(model, make_rows(5, 1)[0]), ranks[0]["after"], atol=5e-6)
        assert model.generate(input_ids=torch.tensor([[5, 6, 7]]), max_new_tokens=4, do_sample=False).shape[1] > 3
    assert (folder / "model" / "generation_config.json").is_file()


class Logits:
    """A head's logits: [R, 1] of a sequence classifier, [B, T, 1] of a token classifier."""

    def __call__(self, model: Any, batch: Any) -> Any:
        return model(input_ids=batch.token_ids, attention_mask=(batch.token_ids != 0).long(), use_cache=False).logits


def train_head_on_rank(
    model: str, head: Head, config: BackendConfig, rows: list[TrainingRow], folder: Path
) -> tuple[list[float], np.ndarray]:
    """Teaches every logit to be 1."""
    from rlhf.runtimes.deepspeed_backend import DeepSpeedBackend

    backend = DeepSpeedBackend(model, config, OptimizerConfig(lr=LR), head, LORA)
    micro = as_microbatch(rows[backend.rank :: 2], packed=False)
    losses = []
    for _ in range(3):
        loss = (backend.forward(micro, Logits(), grad=True) - 1).square().sum()
        backend.backward(loss, last=True)
        backend.step(LR)
        losses.append(loss.item())
    backend.save_pretrained(folder)
    return losses, backend.forward(micro, Logits(), grad=False).numpy()


@pytest.mark.parametrize("stage", [2, 3])
@pytest.mark.parametrize(("name", "head"), [("judge", Head.score), ("tied", Head.value)])
def test_a_head_is_trained_whole_and_saved(
    on_ranks: Any, models: dict[str, Path], tmp_path: Path, name: str, head: Head, stage: int
) -> None:
    import transformers
    from safetensors.numpy import load_file

    rows = make_rows(7, 6)
    config = BackendConfig(precision=Precision.fp32, zero_stage=stage)
    outcomes = on_ranks(train_head_on_rank, str(models[name]), head, config, rows, tmp_path)
    model = getattr(transformers, head.value).from_pretrained(tmp_path).eval()
    for rank, (losses, logits) in enumerate(outcomes):
        assert losses[2] < losses[0]
        micro = as_microbatch(rows[rank::2], packed=False)
        np.testing.assert_allclose(Logits()(model, micro).detach().numpy(), logits, atol=1e-5)
    heads = [key for key in load_file(tmp_path / "adapter" / "adapter_model.safetensors") if "lora_" not in key]
    assert [key.split(".")[2] for key in heads if key.endswith("weight")] == ["score"]


def drop_on_rank(model: str, config: BackendConfig) -> dict[bool, list[np.ndarray]]:
    """Logprobs with and without gradients, in turns, of an adapter that drops half its input."""
    from rlhf.models.causal_lm import SamplingDistribution, TokenReadout
    from rlhf.runtimes.deepspeed_backend import DeepSpeedBackend

    lora = LoRAConfig(rank=4, dropout=0.5)
    backend = DeepSpeedBackend(model, config, OptimizerConfig(lr=LR), lora=lora)
    train(backend, [make_rows(0, 8)], packed=True)
    micro = as_microbatch(make_rows(5, 1), packed=True)
    found: dict[bool, list[np.ndarray]] = {True: [], False: []}
    for grad in (True, False, True, False):
        logprobs = backend.forward(micro, TokenReadout(SamplingDistribution()), grad=grad).logprobs
        if grad:
            backend.backward(logprobs.sum(), last=True)
        found[grad].append(micro.flatten(logprobs.detach()))
    return found


@pytest.mark.parametrize("stage", [2, 3])
def test_an_adapter_drops_in_training_alone(on_ranks: Any, models: dict[str, Path], stage: int) -> None:
    config = BackendConfig(precision=Precision.fp32, zero_stage=stage)
    for found in on_ranks(drop_on_rank, str(models["tied"]), config):
        assert not (found[True][0] == found[True][1]).all()
        assert (found[False][0] == found[False][1]).all()


def quantised_on_rank(
    model: str, config: BackendConfig, steps: list[list[TrainingRow]], folder: Path
) -> dict[str, Any]:
    from rlhf.models.causal_lm import SamplingDistribution, TokenReadout
    from rlhf.runtimes.deepspeed_backend import DeepSpeedBackend

    lora = LoRAConfig(rank=4, alpha=8.0, quantize=True)
    backend = DeepSpeedBackend(model, config, OptimizerConfig(lr=LR), lora=lora)
    losses, _ = train(backend, steps, packed=True)
    backend.save(folder / "checkpoint")
    backend.save_pretrained(folder / "model")
    resumed = DeepSpeedBackend(model, config, OptimizerConfig(lr=LR), lora=lora)
    resumed.load(folder / "checkpoint")
    micro = as_microbatch(make_rows(5, 1), packed=True)
    readout = TokenReadout(SamplingDistribution())
    logprobs = [micro.flatten(each.forward(micro, readout, grad=False).logprobs) for each in (backend, resumed)]
    return {
        "losses": losses,
        "trained": logprobs[0],
        "resumed": logprobs[1],
        "kinds": {type(parameter).__name__ for parameter in backend.model.parameters()},
    }


@pytest.mark.parametrize("stage", [1, 2])
def test_qlora_trains_over_4_bit_weights(
    on_ranks: Any, models: dict[str, Path], tmp_path: Path, steps: list[list[TrainingRow]], stage: int
) -> None:
    from transformers import AutoModelForCausalLM

    pytest.importorskip("bitsandbytes")
    config = BackendConfig(precision=Precision.fp32, zero_stage=stage)
    first, second = on_ranks(quantised_on_rank, str(models["tied"]), config, [steps[0]] * 4, tmp_path)
    total = np.add(first["losses"], second["losses"])
    assert total[-1] < total[0] - 0.05
    merged = plain_logprobs(AutoModelForCausalLM.from_pretrained(tmp_path / "model"), make_rows(5, 1)[0])
    for rank in (first, second):
        assert "Params4bit" in rank["kinds"]
        assert (rank["trained"] == rank["resumed"]).all()
        # The merged model has the base's own weights, not their 4-bit approximation.
        np.testing.assert_allclose(merged, rank["trained"], atol=0.15)

"""What a wrong adapter's configuration is told, before anything starts."""

import importlib.util
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from rlhf.models.lora import LoRAConfig, adapted_layers, check_lora
from rlhf.types import InputError


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rank": 0}, r"lora\.rank=0: "),
        ({"rank": 4, "alpha": 0.0}, r"lora\.alpha=0\.0: "),
        ({"rank": 4, "alpha": float("nan")}, r"lora\.alpha=nan: "),
        ({"rank": 4, "dropout": 1.0}, r"lora\.dropout=1\.0: "),
        ({"rank": 4, "target_modules": []}, r"lora\.target_modules=\[\]: "),
        ({"rank": 4, "target_modules": ["all-linear", "q_proj"]}, r"lora\.target_modules=.*must be the only entry"),
        ({"quantize": True}, r"lora\.quantize=true: set lora\.rank"),
    ],
)
def test_wrong_values_are_named(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        LoRAConfig(**settings)


def test_target_modules_must_be_layers_of_the_model(models: dict[str, Path]) -> None:
    path = str(models["tied"])
    check_lora(LoRAConfig(rank=4, target_modules=["q_proj", "mlp.down_proj"]), path, zero_stage=3)
    with pytest.raises(InputError, match=r"'query'.*q_proj"):
        check_lora(LoRAConfig(rank=4, target_modules=["q_proj", "query"]), path, zero_stage=3)


def test_quantised_folders_take_no_adapter(models: dict[str, Path], tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(models["tied"], folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"quantization_config": {"quant_method": "gptq"}}))
    with pytest.raises(InputError, match="quantised already"):
        check_lora(LoRAConfig(rank=4), str(folder), zero_stage=2)
    check_lora(LoRAConfig(), str(folder), zero_stage=2)


def test_4_bit_weights_are_not_sharded(models: dict[str, Path]) -> None:
    with pytest.raises(InputError, match=r"backend\.zero_stage=3"):
        check_lora(LoRAConfig(rank=4, quantize=True), str(models["tied"]), zero_stage=3)


@pytest.mark.skipif(importlib.util.find_spec("bitsandbytes") is not None, reason="bitsandbytes is installed")
def test_quantize_asks_for_bitsandbytes(models: dict[str, Path]) -> None:
    with pytest.raises(InputError, match="bitsandbytes is not installed"):
        check_lora(LoRAConfig(rank=4, quantize=True), str(models["tied"]), zero_stage=2)


def test_an_embedding_that_is_the_output_head_takes_no_adapter(models: dict[str, Path]) -> None:
    for target in ("embed_tokens", "model.embed_tokens"):
        lora = LoRAConfig(rank=4, target_modules=["q_proj", target])
        check_lora(lora, str(models["untied"]), zero_stage=1)
        with pytest.raises(InputError, match=rf"lora\.target_modules has '{target}'.*is the embedding and the output"):
            check_lora(lora, str(models["tied"]), zero_stage=1)


def test_layers_with_an_adapter_are_those_of_peft(models: dict[str, Path]) -> None:
    from transformers import AutoModelForCausalLM

    from rlhf.models.adapters import attach_adapter
    from rlhf.models.heads import Head

    for targets in (["all-linear"], ["self_attn.q_proj", "down_proj"]):
        config = LoRAConfig(rank=4, target_modules=targets)
        for name in ("tied", "untied"):
            model = attach_adapter(AutoModelForCausalLM.from_pretrained(models[name]), config, Head.causal_lm)
            trained = [name.partition(".lora_")[0] for name, p in model.named_parameters() if p.requires_grad]
            assert adapted_layers(config, str(models[name])) == sorted({name.rpartition(".")[2] for name in trained})

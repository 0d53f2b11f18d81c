"""The adapter alone on its way into vLLM: a folder per version, read once and removed."""

import json
from pathlib import Path
from typing import Any, get_args

import pytest
import torch

from rlhf.models.lora import LoRAConfig
from rlhf.runtimes.buckets import pack
from rlhf.runtimes.configs import ADAPTER_RANKS
from rlhf.types import RunError


class ReadingEngine:
    """Reads an adapter as peft does, when vLLM would."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self.loaded: list[tuple[Any, dict[str, torch.Tensor]]] = []

    def add_lora(self, request: Any) -> bool:
        from peft import PeftModel, get_peft_model_state_dict
        from transformers import AutoModelForCausalLM

        assert request.load_inplace
        model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(self.base), request.lora_path)
        self.loaded.append((request, get_peft_model_state_dict(model)))
        return True


def adapter(model: Path, scale: float, rank: int = 5) -> dict[str, torch.Tensor]:
    from peft import get_peft_model_state_dict
    from transformers import AutoModelForCausalLM

    from rlhf.models.adapters import attach_adapter
    from rlhf.models.heads import Head

    peft_model = attach_adapter(AutoModelForCausalLM.from_pretrained(model), LoRAConfig(rank=rank), Head.causal_lm)
    return {name: torch.full_like(p, scale) for name, p in get_peft_model_state_dict(peft_model).items()}


def load(updates: Any, engine: Any, tensors: dict[str, torch.Tensor], version: int) -> Any:
    updates.begin(engine)
    named = list(tensors.items())
    for half in (named[:3], named[3:]):
        updates.receive(engine, pack(half))
    return updates.finish(engine, version)


def test_each_version_has_a_name_and_a_folder_of_its_own(models: dict[str, Path]) -> None:
    from rlhf.runtimes.vllm_updates import NODE_MEMORY, AdapterAlone

    updates, engine = AdapterAlone(str(models["tied"]), LoRAConfig(rank=5, alpha=7.0)), ReadingEngine(models["tied"])
    assert updates.arguments["max_lora_rank"] == 8
    assert "lm_head" not in updates.arguments["lora_target_modules"]
    requests = [load(updates, engine, adapter(models["tied"], float(version)), version) for version in (1, 2)]
    assert len({request.lora_name for request in requests}) == len({request.lora_path for request in requests}) == 2
    assert len({request.lora_int_id for request in requests}) == 1, "vLLM replaces the adapter in its place"
    assert not any(request.load_inplace for request in requests), "requests read no folder"
    for version, (request, tensors) in enumerate(engine.loaded, start=1):
        assert Path(request.lora_path).parent == NODE_MEMORY
        assert not Path(request.lora_path).exists()
        assert tensors.keys() == adapter(models["tied"], 1.0).keys()
        assert all((tensor == version).all() for tensor in tensors.values())


def test_the_settings_are_peft_s(models: dict[str, Path], tmp_path: Path) -> None:
    from rlhf.runtimes.vllm_updates import AdapterAlone

    updates = AdapterAlone(str(models["tied"]), LoRAConfig(rank=5, alpha=7.0))
    updates.receive(None, pack(list(adapter(models["tied"], 1.0).items())))  # type: ignore[arg-type]
    updates.write(tmp_path)
    settings = json.loads((tmp_path / "adapter_config.json").read_text())
    assert (settings["r"], settings["lora_alpha"], settings["base_model_name_or_path"]) == (5, 7.0, str(models["tied"]))
    assert settings["target_modules"] == updates.arguments["lora_target_modules"]


def test_the_sizes_are_vllm_s() -> None:
    from rlhf.runtimes import vllm_updates  # noqa: F401  sets vLLM's environment

    # isort: split
    from vllm.config.lora import MaxLoRARanks

    assert get_args(MaxLoRARanks) == ADAPTER_RANKS


def test_what_stops_a_version_is_said(models: dict[str, Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from rlhf.runtimes import vllm_updates

    class Refusing(ReadingEngine):
        def add_lora(self, request: Any) -> bool:
            raise ValueError("unexpected modules in LoRA")

    updates = vllm_updates.AdapterAlone(str(models["tied"]), LoRAConfig(rank=5))
    tensors = adapter(models["tied"], 1.0)
    with pytest.raises(RunError, match=r"vLLM does not take version 3 of the adapter \(unexpected .*adapter=merged"):
        load(updates, Refusing(models["tied"]), tensors, 3)
    monkeypatch.setattr(vllm_updates, "NODE_MEMORY", tmp_path / "absent")
    with pytest.raises(RunError, match=r"version 4 of the adapter cannot be written to .*absent.*free memory there"):
        load(updates, ReadingEngine(models["tied"]), tensors, 4)

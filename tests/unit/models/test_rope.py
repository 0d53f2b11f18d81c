"""Rotary embeddings scaled by a key: what transformers makes of the config, and which models are refused."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, BertConfig, Gemma3TextConfig, GPT2Config, PreTrainedConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from rlhf.models.causal_lm import context_length, read_model_config
from rlhf.models.rope import RopeScaling, RopeScalingConfig, apply_rope_scaling, context_factor, with_rope_scaling
from rlhf.types import InputError

YARN = RopeScalingConfig(type=RopeScaling.yarn, factor=4.0)
LINEAR = RopeScalingConfig(type=RopeScaling.linear, factor=4.0)


@pytest.mark.parametrize("rope", [YARN, LINEAR], ids=lambda rope: rope.type.value)
def test_the_saved_model_is_the_scaled_one(models: dict[str, Path], tmp_path: Path, rope: RopeScalingConfig) -> None:
    path = str(models["tied"])
    config = AutoConfig.from_pretrained(path)
    apply_rope_scaling(config, rope, path)
    scaled = AutoModelForCausalLM.from_pretrained(path, config=config)
    scaled.save_pretrained(tmp_path)
    plain, saved = (AutoModelForCausalLM.from_pretrained(folder) for folder in (path, tmp_path))
    ids = torch.arange(3, 60).unsqueeze(0)
    with torch.no_grad():
        before, after, reloaded = (model(ids).logits for model in (plain, scaled, saved))
    assert torch.equal(after, reloaded)
    assert (after - before).abs().max() > 1e-3
    frequencies, _ = ROPE_INIT_FUNCTIONS[rope.type.value](config)
    assert torch.equal(saved.model.rotary_emb.inv_freq, frequencies)
    original = plain.model.rotary_emb.inv_freq
    if rope.type is RopeScaling.linear:
        assert torch.equal(saved.model.rotary_emb.inv_freq, original / 4)
    else:
        # YaRN keeps the fastest rotation and slows the slowest by the whole factor.
        torch.testing.assert_close(frequencies[0], original[0])
        torch.testing.assert_close(frequencies[-1], original[-1] / 4)
    assert context_length(read_model_config(str(tmp_path))) == 4 * context_length(read_model_config(path)) == 1024
    assert context_length(with_rope_scaling(path, read_model_config(path), rope)) == 1024
    assert json.loads((tmp_path / "config.json").read_text())["rope_parameters"]["factor"] == 4.0


def test_none_leaves_the_model_alone(models: dict[str, Path]) -> None:
    raw = read_model_config(str(models["tied"]))
    assert with_rope_scaling(str(models["tied"]), raw, RopeScalingConfig()) == raw


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        (GPT2Config(), "has no rotary embeddings"),
        (BertConfig(), "has no rotary embeddings"),
        (Gemma3TextConfig(), "has layers with different rotary embeddings"),
    ],
)
def test_models_that_cannot_be_scaled_are_refused(config: PreTrainedConfig, reason: str) -> None:
    with pytest.raises(InputError, match=rf"rope_scaling\.type=yarn: model 'somewhere' {reason}"):
        apply_rope_scaling(config, YARN, "somewhere")


def test_a_model_is_scaled_once(models: dict[str, Path]) -> None:
    path = str(models["tied"])
    scaled = with_rope_scaling(path, read_model_config(path), YARN)
    with pytest.raises(InputError, match=r"scales them already \(yarn\)"):
        with_rope_scaling(path, scaled, LINEAR)


@pytest.mark.parametrize(
    ("settings", "factor"),
    [
        ({}, 1.0),
        ({"rope_scaling": None}, 1.0),
        ({"rope_scaling": {"type": "linear", "factor": 2.0}}, 2.0),
        ({"rope_parameters": {"rope_type": "linear", "factor": 8}}, 8.0),
        ({"rope_parameters": {"rope_type": "yarn", "factor": 4.0}}, 1.0),
        ({"rope_parameters": {"rope_type": "llama3", "factor": 8.0}}, 1.0),
        ({"model_type": "gemma3_text", "rope_scaling": {"rope_type": "linear", "factor": 8.0}}, 1.0),
    ],
)
def test_the_context_of_folders_that_are_scaled(settings: dict[str, Any], factor: float) -> None:
    assert context_factor(settings) == factor


@pytest.mark.parametrize("settings", [{"factor": 2.0}, {"type": RopeScaling.yarn}, {"type": "linear", "factor": 0.5}])
def test_a_factor_needs_a_type_and_a_type_a_factor(settings: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=r"rope_scaling\.factor="):
        RopeScalingConfig(**settings)

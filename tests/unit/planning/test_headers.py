"""What recipes say of memory is what their configuration gives, and fits the accelerators they are written for."""

from pathlib import Path

import pytest

from benchmarks.recipe_headers import gpu_recipes, planned
from rlhf.planning.headers import ACCELERATOR_GB, header, header_in, peaks, with_header
from rlhf.planning.memory import cache_tokens, frozen_model, learner
from rlhf.planning.shapes import count, kept_by_layer, shape_of
from rlhf.runtimes.configs import BackendConfig, SamplerConfig
from rlhf.types import InputError

REMEDY = "recompute the headers: python benchmarks/recipe_headers.py"
PUBLISHED = {
    "Qwen3-0.6B": 596_049_920,
    "Qwen3-1.7B": 1_720_574_976,
    "Qwen3-4B": 4_022_468_096,
    "Qwen3-8B": 8_190_735_360,
    "Qwen3-32B": 32_762_123_264,
    "Llama-3.1-8B": 8_030_261_248,
}
"""Parameters as their model cards and files count them, tied heads once."""


@pytest.mark.parametrize("recipe", gpu_recipes(), ids=lambda path: path.stem)
def test_a_recipe_s_header_is_what_its_configuration_gives(recipe: Path) -> None:
    config, plan = planned(recipe)
    assert header_in(recipe.read_text(encoding="utf-8")) == header(config, plan), REMEDY


@pytest.mark.parametrize("recipe", gpu_recipes(), ids=lambda path: path.stem)
def test_every_recipe_fits_its_accelerators(recipe: Path) -> None:
    config, plan = planned(recipe)
    assert max(peaks(config, plan).values()) <= ACCELERATOR_GB * 1e9
    if hasattr(config, "sampler"):
        room = cache_tokens(shape_of(config.model), config.sampler, ACCELERATOR_GB * 1e9)
        assert room >= 16 * config.sampler.context_tokens, "an engine that decodes few sequences at once is slow"


@pytest.mark.parametrize("name", PUBLISHED)
def test_shapes_have_as_many_parameters_as_published(name: str) -> None:
    assert count(name).num_parameters == PUBLISHED[name]
    assert shape_of(f"{name}-Instruct") == count(name)


def test_an_unknown_model_is_refused() -> None:
    with pytest.raises(InputError, match=r"Qwen3-80B: its shape is not known; known are Qwen3-0\.6B, "):
        shape_of("Qwen3-80B")


def test_a_layer_keeps_as_much_for_every_token_and_no_scores() -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(hidden_size=64, intermediate_size=96, num_hidden_layers=1, num_attention_heads=4, vocab_size=8)
    model = LlamaForCausalLM(config).to("meta").bfloat16()
    assert kept_by_layer(model, 2048) == pytest.approx(2 * kept_by_layer(model, 1024), rel=0.01)


def test_states_are_eighteen_bytes_a_parameter_shared_by_the_ranks() -> None:
    """bf16 weights, and fp32 gradients, master weights and two moments (Rajbhandari et al. 2020, section 3.1)."""
    shape = count("Qwen3-8B")
    for stage in (2, 3):
        each = learner(shape, BackendConfig(zero_stage=stage), 4)
        whole = 2 if stage == 2 else 0.5
        assert each.states == pytest.approx(shape.num_parameters * (whole + 16 / 4))
    assert learner(shape, BackendConfig(zero_stage=1), 4).states == pytest.approx(shape.num_parameters * (2 + 4 + 3))
    on_host = learner(shape, BackendConfig(offload_optimizer=True), 4)
    assert on_host.states == pytest.approx(shape.num_parameters * 6 / 4)


def test_an_adapter_has_states_of_its_own_parameters_alone() -> None:
    """Rank 16 on all seven linear layers of 28: 10,092,544 parameters for Qwen3-0.6B."""
    shape = count("Qwen3-0.6B")
    adapter = 28 * 16 * (2 * (1024 + 2048) + 2 * (1024 + 1024) + 3 * (1024 + 3072))
    each = learner(shape, BackendConfig(), 1, lora_rank=16)
    assert adapter == 10_092_544
    assert each.states == pytest.approx(2 * shape.num_parameters + 18 * adapter)


def test_a_score_head_replaces_the_vocabulary() -> None:
    shape, backend = count("Qwen3-8B"), BackendConfig()
    scores = frozen_model(shape, backend, 1, vocabulary=False)
    assert scores.head == 0
    assert scores.states == 2 * (shape.num_parameters - 151936 * 4096)
    assert frozen_model(count("Qwen3-0.6B"), backend, 1, vocabulary=False).states == 2 * PUBLISHED["Qwen3-0.6B"], "tied"


def test_the_cache_has_what_weights_and_work_leave() -> None:
    shape = count("Qwen3-32B")
    sampler = SamplerConfig(tensor_parallel_size=4, accelerator_memory_fraction=0.5)
    room = cache_tokens(shape, sampler, 80e9)
    assert room == int((4 * (40e9 - 3e9) - 2 * shape.num_parameters) // (2 * 64 * 8 * 128 * 2))
    assert cache_tokens(shape, SamplerConfig(accelerator_memory_fraction=0.5), 80e9) < 0


def test_computed_lines_end_the_comment_and_are_replaced() -> None:
    recipe = "# @package _global_\n# A recipe.\nmodel: m\n"
    once = with_header(recipe, ["# Computed, not measured: 1", "# and 2."])
    assert once == "# @package _global_\n# A recipe.\n# Computed, not measured: 1\n# and 2.\nmodel: m\n"
    assert header_in(once) == ["# Computed, not measured: 1", "# and 2."]
    assert with_header(once, ["# Computed, not measured: 3"]) == with_header(recipe, ["# Computed, not measured: 3"])

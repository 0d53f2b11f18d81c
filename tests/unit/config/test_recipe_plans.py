"""Every recipe's roles fit the machines it is named after."""

from pathlib import Path

import pytest

from rlhf.config import OnlineConfig, compose
from rlhf.planning.headers import header_in
from rlhf.stages.online.job import plan_roles

CONF = Path(__file__).parents[3] / "conf"
ACCELERATORS = {
    "gsm8k_grpo_8gpu": 8,
    "llama31_8b_ppo_8gpu": 8,
    "quickstart": 4,
    "quickstart_ppo": 6,
    "tiny_cot": 3,
    "tiny_grpo": 3,
    "tiny_ppo": 5,
    "qwen3_06b_cot_math_1gpu": 1,
    "qwen3_06b_grpo_math_1gpu": 1,
    "qwen3_32b_dapo_64gpu": 64,
    "qwen3_4b_distill_8gpu": 8,
    "qwen3_8b_grpo_8gpu": 8,
    "qwen3_8b_grpo_8gpu_colocated": 8,
}

OFFLINE = ("_sft", "_pretrain", "_reward_model", "_dpo")


def test_every_online_recipe_is_here():
    recipes = {
        path.stem for path in (CONF / "experiment").glob("*.yaml") if not any(part in path.stem for part in OFFLINE)
    }
    assert recipes == set(ACCELERATORS)


@pytest.mark.parametrize("recipe", ACCELERATORS)
def test_recipes_use_the_accelerators_they_are_named_after(recipe):
    config = compose(CONF, "online", [f"experiment={recipe}", "model=m"], OnlineConfig)
    assert plan_roles(config).num_accelerators == ACCELERATORS[recipe]


def test_recipes_are_short():
    """Without the lines that are computed."""
    texts = {path.stem: path.read_text() for path in (CONF / "experiment").glob("*.yaml")}
    lines = {name: len(text.splitlines()) - len(header_in(text)) for name, text in texts.items()}
    assert max(lines.values()) <= 17, lines

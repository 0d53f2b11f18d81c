"""Write the computed memory into every GPU recipe: python benchmarks/recipe_headers.py"""

from __future__ import annotations

from pathlib import Path

from rlhf.actors.plan import Plan
from rlhf.config import OnlineConfig, compose
from rlhf.offline_config import OfflineConfig, PreferenceRunConfig, RewardModelRunConfig, SFTRunConfig
from rlhf.planning.headers import header, peaks, rewrite
from rlhf.stages.offline.run import plan_ranks
from rlhf.stages.online.job import plan_roles

CONF = Path(__file__).parents[1] / "conf"
COMMANDS: dict[str, tuple[str, type[OnlineConfig | OfflineConfig]]] = {
    "_sft_": ("sft", SFTRunConfig),
    "_pretrain_": ("sft", SFTRunConfig),
    "_reward_model_": ("reward_model", RewardModelRunConfig),
    "_dpo_": ("preference", PreferenceRunConfig),
}
"""Command of a recipe, by a part of its name; the other recipes are for online training."""


def gpu_recipes() -> list[Path]:
    return sorted((CONF / "experiment").glob("*gpu*.yaml"))


def planned(recipe: Path) -> tuple[OnlineConfig | OfflineConfig, Plan]:
    """Return a recipe's configuration and the accelerators it takes."""
    command, schema = next((each for part, each in COMMANDS.items() if part in recipe.stem), ("online", OnlineConfig))
    config = compose(CONF, command, [f"experiment={recipe.stem}"], schema)
    return config, plan_roles(config) if isinstance(config, OnlineConfig) else plan_ranks(config)


if __name__ == "__main__":
    for recipe in gpu_recipes():
        config, plan = planned(recipe)
        rewrite(recipe, header(config, plan))
        print(recipe.stem, {name: f"{most / 1e9:.1f} GB computed" for name, most in peaks(config, plan).items()})

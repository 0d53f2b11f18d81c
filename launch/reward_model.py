"""Reward models: `python launch/reward_model.py model=MODEL data.path=pairs.jsonl output=outputs/reward_model`."""

import hydra
from omegaconf import DictConfig

from rlhf.command_line import command_line, in_one_sentence
from rlhf.config import RewardModelRunConfig, resolve


@hydra.main(version_base="1.3", config_path="../conf", config_name="reward_model")
@in_one_sentence
def main(composed: DictConfig) -> None:
    config = resolve(composed, RewardModelRunConfig)
    from rlhf.stages.offline.reward_model import run

    run(config)


if __name__ == "__main__":
    command_line(main, hydra=True)

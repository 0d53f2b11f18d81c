"""Success of a model on a recipe's prompts: `python launch/measure.py experiment=quickstart model=FOLDER`."""

import hydra
from omegaconf import DictConfig

from rlhf.command_line import command_line, in_one_sentence
from rlhf.config import OnlineConfig, resolve


@hydra.main(version_base="1.3", config_path="../conf", config_name="online")
@in_one_sentence
def main(composed: DictConfig) -> None:
    config = resolve(composed, OnlineConfig)
    from rlhf.stages.online.measure import run

    run(config)


if __name__ == "__main__":
    command_line(main, hydra=True)

"""Supervised fine-tuning: `python launch/sft.py experiment=quickstart_sft`."""

import hydra
from omegaconf import DictConfig

from rlhf.command_line import command_line, in_one_sentence
from rlhf.config import SFTRunConfig, resolve


@hydra.main(version_base="1.3", config_path="../conf", config_name="sft")
@in_one_sentence
def main(composed: DictConfig) -> None:
    config = resolve(composed, SFTRunConfig)
    from rlhf.stages.offline.sft import run

    run(config)


if __name__ == "__main__":
    command_line(main, hydra=True)

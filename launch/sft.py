"""Supervised fine-tuning: `python launch/sft.py experiment=quickstart_sft`."""

import hydra
from omegaconf import DictConfig

from rlhf.config import SFTRunConfig, command_line, resolve


@hydra.main(version_base="1.3", config_path="../conf", config_name="sft")
def main(composed: DictConfig) -> None:
    config = resolve(composed, SFTRunConfig)
    from rlhf.stages import offline

    offline.run(config)


if __name__ == "__main__":
    command_line(main)

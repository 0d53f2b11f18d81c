"""Policies side by side: `python launch/compare.py experiment=tiny_ppo output=outputs/compare +policies.ppo=FOLDER`."""

import hydra
from omegaconf import DictConfig

from rlhf.command_line import command_line, in_one_sentence
from rlhf.config import CompareConfig, resolve


@hydra.main(version_base="1.3", config_path="../conf", config_name="compare")
@in_one_sentence
def main(composed: DictConfig) -> None:
    config = resolve(composed, CompareConfig)
    from rlhf.stages.online.compare import run

    run(config)


if __name__ == "__main__":
    command_line(main, hydra=True)

"""Policies from preferences: `python launch/dpo.py model=MODEL data.path=pairs.jsonl output=outputs/dpo`."""

import hydra
from omegaconf import DictConfig

from rlhf.command_line import command_line, in_one_sentence
from rlhf.config import PreferenceRunConfig, resolve


@hydra.main(version_base="1.3", config_path="../conf", config_name="preference")
@in_one_sentence
def main(composed: DictConfig) -> None:
    config = resolve(composed, PreferenceRunConfig)
    from rlhf.stages.offline.preference import run

    run(config)


if __name__ == "__main__":
    command_line(main, hydra=True)

"""Online reinforcement learning: `python launch/ppo.py experiment=quickstart train.num_steps=50`.

`launch/online.py` is the same command.
"""

from pathlib import Path

import hydra
from omegaconf import DictConfig

from rlhf.command_line import command_line, in_one_sentence
from rlhf.config import OnlineConfig, resolve
from rlhf.sweeps.multirun import as_member

# Absolute: Hydra would resolve a relative path against the script that imports `main`, as a package.
CONF = Path(__file__).resolve().parent.parent / "conf"


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="online")
@in_one_sentence
@as_member
def main(composed: DictConfig) -> None:
    config = resolve(composed, OnlineConfig)
    from rlhf.stages.online.run import run

    run(config)


if __name__ == "__main__":
    command_line(main, hydra=True)

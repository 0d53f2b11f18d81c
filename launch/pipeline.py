"""Pipelines of stages from a base model to a report: `python launch/pipeline.py pipeline=tiny`."""

import sys
from pathlib import Path

import hydra
from omegaconf import DictConfig

from rlhf.command_line import command_line, in_one_sentence
from rlhf.config import resolve
from rlhf.pipelines.config import PipelineConfig

CONF = Path(__file__).parent.parent / "conf"


@hydra.main(version_base="1.3", config_path="../conf", config_name="pipeline")
@in_one_sentence
def main(composed: DictConfig) -> None:
    config = resolve(composed, PipelineConfig)
    from rlhf.pipelines.run import run

    sys.exit(run(config, CONF))


if __name__ == "__main__":
    command_line(main, hydra=True)

"""Stages from a base model to a report, where they are not there yet: `python launch/pipeline.py pipeline=tiny`.

Arguments are the keys of the pipeline, Hydra's overrides; the same command continues it.
"""

import sys
from pathlib import Path

from rlhf.command_line import command_line
from rlhf.config import compose
from rlhf.train.pipeline import PipelineConfig

CONF = Path(__file__).parent.parent / "conf"


def main() -> None:
    config = compose(CONF, "pipeline", sys.argv[1:], PipelineConfig)
    from rlhf.stages import pipeline

    pipeline.run(config, CONF)


if __name__ == "__main__":
    command_line(main)

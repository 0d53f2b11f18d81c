"""Evaluation of a model by suites, with intervals and verdicts: `python launch/evaluate.py suite=[quickstart]
model=FOLDER output=FOLDER`."""

import sys

import hydra
from omegaconf import DictConfig

from rlhf.command_line import command_line, in_one_sentence
from rlhf.config import resolve
from rlhf.evaluation_config import EvaluationConfig


@hydra.main(version_base="1.3", config_path="../conf", config_name="evaluate")
@in_one_sentence
def main(composed: DictConfig) -> None:
    config = resolve(composed, EvaluationConfig)
    from rlhf.stages.evaluation.run import run

    verdicts = run(config)
    if verdicts is not None:
        sys.exit(verdicts.exit_code)


if __name__ == "__main__":
    command_line(main, hydra=True)

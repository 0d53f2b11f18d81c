"""An earlier evaluation with which a new one is compared, item by item."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rlhf.evaluation.ask import read_answer
from rlhf.evaluation.items import Answer
from rlhf.evaluation.suite import Suite
from rlhf.train.artifact import open_artifact
from rlhf.train.run_folder import REPORT
from rlhf.types import InputError

RESULTS, ANSWERS = "results.json", "answers"
"""Files of an evaluation's report: all figures, and the folder of the answers by suite."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Baseline:
    """Answers of an earlier evaluation to the suites of this one."""

    folder: Path
    name: str
    """Model that was evaluated."""
    answers: Mapping[str, Sequence[Answer]]
    digests: Mapping[str, str]
    """Digests of its suites, by name."""

    def answers_to(self, suite: Suite) -> Sequence[Answer] | None:
        """Return its answers to the items of a suite; None if it did not have the suite."""
        return self.answers.get(suite.name)


def open_baseline(path: str, suites: Sequence[Suite]) -> Baseline:
    """Open the folder of an evaluation. Raises InputError if it is none, or evaluated another version of a suite."""
    folder = Path(path) / REPORT if (Path(path) / REPORT).is_dir() else Path(path)
    if not (folder / RESULTS).is_file():
        raise InputError(
            f"baseline={path}: it is no folder of a finished evaluation; give the output of launch/evaluate.py"
        )
    results = json.loads((open_artifact(folder).folder / RESULTS).read_text(encoding="utf-8"))
    digests = {name: each["digest"] for name, each in results["suites"].items()}
    for suite in suites:
        other = digests.get(suite.name, suite.digest)
        if other != suite.digest:
            raise InputError(
                f"baseline={path}: it was evaluated on another version of suite.{suite.name} ({other[:12]}, and this "
                f"one is {suite.digest[:12]}): its data, prompts or sampling differ; evaluate the baseline again"
            )
    shared = [suite.name for suite in suites if suite.name in digests]
    if not shared:
        raise InputError(f"baseline={path}: it has the suites {', '.join(digests)}, and none of this evaluation's")
    return Baseline(
        folder=folder,
        name=results["model"],
        answers={name: read_answers(folder / ANSWERS / f"{name}.jsonl") for name in shared},
        digests=digests,
    )


def read_answers(file: Path) -> list[Answer]:
    return [read_answer(json.loads(line)) for line in file.read_text(encoding="utf-8").splitlines()]

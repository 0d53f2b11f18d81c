"""Report of a pipeline: each stage with its inputs, cost and metrics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rlhf.pipelines.plan import Step
from rlhf.pipelines.record import PIPELINE, Pipeline, Stage
from rlhf.stages.console import CONSOLE, markdown_table, show_table
from rlhf.stages.evaluation.baseline import RESULTS
from rlhf.stages.inputs import read_json, training_cost
from rlhf.train.artifact import MANIFEST
from rlhf.train.run_folder import replace_file

TABLE = "pipeline.md"
HEADLINES = (
    "held_out/loss",
    "held_out/perplexity",
    "held_out/accuracy",
    "held_out/reward_accuracy",
    "train/loss",
    "success_before",
    "success_after",
)
"""Metrics of a model's manifest that the table shows; the record has all."""
COLUMNS = ("stage", "kind", "state", "verdict", "seconds", "tokens", "from", "fingerprint", "figures")
NUM_SHOWN = 6
"""Columns that a terminal has room for."""
LEGEND = (
    "Seconds: wall time of the stage, start included. Tokens: sum over all training steps, prompts included. A stage "
    "is kept if its fingerprint, computed from its configuration and its inputs' contents, is unchanged."
)


def figures_of(step: Step) -> dict[str, Any]:
    """Return tokens, metrics and verdict of a stage, as far as its folder has them."""
    manifest, results = step.artifact / MANIFEST, step.artifact / RESULTS
    return {
        "tokens": training_cost(step.folder)[1],
        "metrics": read_json(manifest).get("metrics", {}) if manifest.is_file() else {},
        "verdict": read_json(results).get("verdict") if results.is_file() else None,
    }


def write_report(pipeline: Pipeline) -> None:
    rows = [row_of(name, stage) for name, stage in pipeline.stages.items()]
    replace_file(pipeline.root / TABLE, f"{markdown_table(COLUMNS, rows)}\n{LEGEND}\n")
    show_table(f"Pipeline {pipeline.root}", COLUMNS[:NUM_SHOWN], [row[:NUM_SHOWN] for row in rows])
    places = f"table: {pipeline.root / TABLE}", f"record: {pipeline.root / PIPELINE}"
    CONSOLE.print(*places, sep="\n", soft_wrap=True)


def row_of(name: str, stage: Stage) -> list[str]:
    return [
        name,
        stage.kind,
        stage.state,
        stage.verdict or "",
        f"{stage.seconds:.1f}",
        "" if stage.tokens is None else f"{stage.tokens:.0f}",
        ", ".join(stage.parents),
        (stage.fingerprint or "")[:8],
        headlines(stage.metrics),
    ]


def headlines(metrics: Mapping[str, Any]) -> str:
    found = {name: metrics[name] for name in HEADLINES if metrics.get(name) is not None}
    return ", ".join(f"{name} {value:.4g}" for name, value in found.items())


def show_stages(steps: Sequence[tuple[Step, str]]) -> None:
    rows = [(step.name, step.kind_name, ", ".join(step.parents), state) for step, state in steps]
    show_table("Stages in their order", ("stage", "kind", "from", "state"), rows)

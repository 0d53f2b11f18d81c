"""Report of a sweep: one table and one plot of all its members."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from rlhf.stages.console import CONSOLE, show_table
from rlhf.sweeps.record import Member, State, Sweep
from rlhf.train.artifact import MANIFEST
from rlhf.train.run_folder import RunFolder, replace_file
from rlhf.train.tracking import METRICS, plot_runs, read_rows
from rlhf.train.validation import SUCCESS_BEFORE
from rlhf.types import RunError

TABLE, PLOT = "sweep.md", "sweep.png"
LAST_STEPS = 5
PANELS = {"reward": "reward", "validation success": "validation/success", "KL to the reference (nats)": "train/kl"}
COLUMNS = {
    "steps": "steps",
    "reward": "reward",
    "kl": "KL",
    "success_before": "success before",
    "success_after": "success after",
    "seconds": "seconds",
}
"""Metrics of a member, with their names in the table."""
LEGEND = f"Reward and KL: means of the last {LAST_STEPS} steps; seconds: all training steps, without the start."


class Ranking(Protocol):
    """Order of a search's members."""

    def describe_best(self, sweep: Sweep) -> str:
        """Return a sentence on the best member."""


def conclude_sweep(sweep: Sweep, ranking: Ranking | None = None) -> None:
    """Write and show the report, with the best member of a search. Raises RunError if a member failed."""
    histories = {member.name: read_rows(sweep.folder(member) / METRICS) for member in sweep.members}
    for member in sweep.members:
        sweep.record(member, figures=figures(sweep.folder(member), histories[member.name]))
    keys = key_names(list(sweep.members[0].swept))
    header = [*keys, "state", *COLUMNS.values()]
    rows = [cells(member) for member in sweep.members]
    failed = sweep.having(State.failed)
    errors = "".join(f"* {member.name}: {member.error}\n" for member in failed)
    legend = f"{LEGEND}\n{ranking.describe_best(sweep)}" if ranking else LEGEND
    replace_file(sweep.root / TABLE, f"{markdown(header, rows)}\n{legend}\n\n![Learning curves]({PLOT})\n\n{errors}")
    labels = [" ".join(map("=".join, zip(keys, member.swept.values(), strict=True))) for member in sweep.members]
    plot_runs(dict(zip(labels, histories.values(), strict=True)), PANELS, sweep.root / PLOT)
    show_table(f"Sweep {sweep.root}", header, rows)
    CONSOLE.print(legend, f"table: {sweep.root / TABLE}", f"plot: {sweep.root / PLOT}", sep="\n", soft_wrap=True)
    if failed:
        raise RunError(
            f"{len(failed)} of {len(sweep.members)} members failed, the first with: {failed[0].error}; the same "
            "command runs them again, and skips finished members"
        )


def figures(folder: Path, history: Sequence[Mapping[str, Any]]) -> dict[str, float | None]:
    """Read a member's metrics from its folder; None for metrics that do not exist yet."""
    before, manifest = folder / SUCCESS_BEFORE, RunFolder(folder).model / MANIFEST
    metrics = read_json(manifest).get("metrics", {})
    steps = [row for row in history if "seconds/step" in row]  # the others are validations
    return {
        "steps": len(steps),
        "reward": mean_of_last(steps, "reward"),
        "kl": mean_of_last(steps, "train/kl"),
        "success_before": read_json(before).get("rate"),
        "success_after": metrics.get("success_after"),
        "seconds": sum(row["seconds/step"] for row in steps),
    }


def read_json(file: Path) -> dict[str, Any]:
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}


def mean_of_last(history: Sequence[Mapping[str, Any]], name: str) -> float | None:
    """Return the mean over the last steps in which the metric was finite."""
    values = [row[name] for row in history[-LAST_STEPS:] if row.get(name) is not None]
    return float(np.mean(values)) if values else None


def key_names(keys: Sequence[str]) -> list[str]:
    """Shorten keys to their last part, if the short names are distinct."""
    short = [key.rpartition(".")[2] for key in keys]
    return short if len(set(short)) == len(keys) else list(keys)


def cells(member: Member) -> list[str]:
    values = [member.figures[name] for name in COLUMNS]
    return [*member.swept.values(), member.state, *("" if value is None else f"{value:.4g}" for value in values)]


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)

"""Runs of the quickstart's kind, one after the other on one cluster, compared by seeds on held-out prompts."""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import stats

from launch.quickstart import ALPHABET
from rlhf.actors.placement import cluster
from rlhf.config import OnlineConfig, SFTRunConfig, compose
from rlhf.models.tiny import build_tiny_model
from rlhf.stages.console import markdown_table
from rlhf.stages.offline import sft
from rlhf.stages.online import run as online
from rlhf.stages.online.job import plan_roles
from rlhf.train.tracking import METRICS, read_rows

CONF = Path(__file__).parent.parent / "conf"
NUM_HELD_OUT = 100
SUCCESS = "validation/success"
COMMON = (
    "experiment=quickstart", "algorithm.clip_high=0.2", "sampling.max_tokens=8", "stop_at_reward=null",
    "train.num_steps=30", "validation.every=5", "placement.policy=1", "log.tensorboard=false", "log.groups_per_step=0",
)  # fmt: skip
"""What all runs share: the quickstart's recipe, 512 rollouts in four updates a step, for 30 steps."""


AVERAGED = ("before", "after", "seconds", "kl", "entropy")
"""Fields of an outcome of which a table has the mean over seeds."""


@dataclass(frozen=True, slots=True)
class Task:
    """Questions about numbers of three digits, and the training that a base model has had on them."""

    answer: Callable[[str], str]
    warm_steps: int


TASKS = {
    "backwards": Task(lambda number: number[::-1], 45),
    "sorted": Task(lambda number: "".join(sorted(number)), 12),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a run came to. The curve has the held-out success by step."""

    curve: Mapping[int, float]
    seconds: float
    kl: float
    entropy: float

    @property
    def before(self) -> float:
        return self.curve[min(self.curve)]

    @property
    def after(self) -> float:
        return self.curve[max(self.curve)]


def prepare(root: Path, task: str) -> Path:
    """Make a task's rows and its base model, unless they are there. Return their folder."""
    folder, chosen = root / task, [f"{number:03d}" for number in range(1000)]
    folder.mkdir(parents=True, exist_ok=True)
    random.Random(0).shuffle(chosen)
    for name, numbers in (("train", chosen[NUM_HELD_OUT:]), ("held_out", chosen[:NUM_HELD_OUT])):
        rows = [{"prompt": f"{number}=", "answer": TASKS[task].answer(number)} for number in numbers]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    if not (folder / "untrained" / "config.json").is_file():
        build_tiny_model(folder / "untrained", alphabet=ALPHABET, hidden_size=128, context_tokens=64)
    overrides = [
        "experiment=quickstart_sft", f"model={folder / 'untrained'}", f"output={folder / 'base'}",
        f"data.path={folder / 'train.jsonl'}", f"train.num_steps={TASKS[task].warm_steps}", "placement.policy=1",
    ]  # fmt: skip
    sft.run(compose(CONF, "sft", overrides, SFTRunConfig))
    return folder


def config_of(root: Path, task: str, name: str, seed: int, overrides: Sequence[str]) -> OnlineConfig:
    folder = root / task
    paths = (
        f"model={folder / 'base' / 'model'}", f"data.path={folder / 'train.jsonl'}",
        f"validation.path={folder / 'held_out.jsonl'}", f"output={root / 'runs' / task / f'{name}-{seed}'}",
    )  # fmt: skip
    return compose(CONF, "online", [*COMMON, *paths, f"seed={seed}", *overrides], OnlineConfig)


def run_all(root: Path, variants: Mapping[str, Sequence[str]], tasks: Sequence[str], num_seeds: int) -> None:
    """Train every variant on every task with every seed, the seeds outermost; runs that have ended are kept."""
    first = next(iter(variants))
    configs = [
        config_of(root, task, name, seed, variants[name])
        for seed in range(num_seeds)
        for task in tasks
        for name in [first, *(each for each in variants if each != first)]
    ]
    plans = [plan_roles(config) for config in configs]
    with cluster(max(plans, key=lambda plan: plan.num_accelerators)):
        for task in tasks:
            prepare(root, task)
        for config in configs:
            online.run(config)


def outcome(root: Path, task: str, name: str, seed: int) -> Outcome | None:
    """Return what a run came to; None if it has not ended."""
    folder = root / "runs" / task / f"{name}-{seed}"
    if not (folder / "model" / "manifest.json").is_file():
        return None
    rows = read_rows(folder / METRICS)
    last = {name: value for row in rows for name, value in row.items()}
    return Outcome(
        curve={row["step"]: row[SUCCESS] for row in rows if SUCCESS in row},
        seconds=sum(row["seconds/step"] for row in rows if "seconds/step" in row),
        kl=last.get("train/kl", float("nan")),
        entropy=last["train/entropy"],
    )


def outcomes(root: Path, task: str, names: Sequence[str], num_seeds: int) -> dict[str, dict[int, Outcome]]:
    """Return the outcomes of the runs that have ended, by variant and seed."""
    found = {name: {seed: outcome(root, task, name, seed) for seed in range(num_seeds)} for name in names}
    return {name: {seed: each for seed, each in by.items() if each is not None} for name, by in found.items()}


def difference(of: Mapping[int, Outcome], to: Mapping[int, Outcome]) -> str:
    """Return the mean paired difference of the success afterwards with its 95 % interval (Student's t, by seed)."""
    values = np.array([of[seed].after - to[seed].after for seed in of if seed in to])
    if len(values) < 2 or not values.any():
        return f"{values.mean():+.3f}" if len(values) else "-"
    half = stats.t.ppf(0.975, len(values) - 1) * stats.sem(values)
    return f"{values.mean():+.3f} ({values.mean() - half:+.3f} to {values.mean() + half:+.3f})"


def table(found: Mapping[str, Mapping[int, Outcome]]) -> str:
    """Return a Markdown table of variants, each compared with the first."""
    first = next(iter(found))
    header = ["", "seeds", "before", "after", f"difference to {first}", "steps", "seconds", "KL", "entropy"]
    rows = []
    for name, by in found.items():
        if by:
            means = {key: np.mean([getattr(each, key) for each in by.values()]) for key in AVERAGED}
            rows.append([
                name, str(len(by)), f"{means['before']:.3f}", f"{means['after']:.3f}", difference(by, found[first]),
                str(max(next(iter(by.values())).curve) + 1), f"{means['seconds']:.0f}", f"{means['kl']:.3f}",
                f"{means['entropy']:.3f}",
            ])  # fmt: skip
    return markdown_table(header, rows)


def report(root: Path, variants: Sequence[str], tasks: Sequence[str], num_seeds: int, file: Path | None) -> None:
    """Print the tables of all tasks, and draw the mean curves of held-out success into a file, if one is given."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.5 * len(tasks), 5), layout="constrained")
    for index, task in enumerate(tasks):
        found = outcomes(root, task, variants, num_seeds)
        sys.stdout.write(f"\n{task}\n\n{table(found)}\n")
        axes = figure.add_subplot(1, len(tasks), index + 1, title=task, xlabel="step", ylabel="held-out success")
        for number, (name, by) in enumerate(found.items()):
            if by:
                steps = sorted(set.intersection(*(set(each.curve) for each in by.values())))
                means = [np.mean([each.curve[step] for each in by.values()]) for step in steps]
                axes.plot(steps, means, label=f"{name} ({len(by)})", linestyle=("-", "--", ":")[number % 3])
        axes.legend(fontsize="small")
    if file is not None:
        figure.savefig(file, dpi=120)

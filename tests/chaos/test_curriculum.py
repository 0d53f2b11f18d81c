"""Prompt sets with weights and a curriculum: a killed run asks the same prompts as one that nothing disturbed."""

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path

from rlhf.config import OnlineConfig
from tests.chaos.conftest import Run, metrics
from tests.chaos.gate import LEAST_STEPS, Gate
from tests.chaos.test_runs import figures


def prompts_of(folder: Path) -> list[tuple[int, str]]:
    """The prompts of all steps in the order in which they were trained on, a pair per episode."""
    lines = (folder / "rollouts.jsonl").read_text().splitlines()
    return [(line["step"], line["prompt_id"]) for line in map(json.loads, lines)]


def recipe_of(folder: Path) -> list[str]:
    for name, number in (("plus", 3), ("minus", 2)):
        rows = [{"prompt": f"{i}{'+' if name == 'plus' else '-'}1=", "answer": str(i)} for i in range(number)]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "prose.txt").write_text("one and one is two. " * 9)
    return [
        # Sets of fewer prompts than a step, so that what the curriculum knows decides from the second step on.
        "data.path=", f"+data.sets={{plus: {{path: {folder}/plus.jsonl, weight: 3}}, "
                      f"minus: {{path: {folder}/minus.jsonl}}}}",
        "curriculum.rest_after=1", "curriculum.lowest=0.6", "curriculum.keep_outside=0.25",
        "curriculum.threshold=0.125", f"+validation.texts.prose={folder}/prose.txt", "validation.num_prompts=2",
        "validation.samples_per_prompt=1", "placement.policy=1", "log.groups_per_step=4", "log.tensorboard=false",
        f"train.num_steps={LEAST_STEPS}", "checkpoint.every=1",
    ]  # fmt: skip


def test_a_killed_run_asks_the_same_prompts_of_each_set(
    launch: Callable[..., Run], cluster: None, compose: Callable[..., OnlineConfig], tmp_path: Path
) -> None:
    from rlhf.stages.online import run as online

    recipe, whole, killed = recipe_of(tmp_path), tmp_path / "whole", tmp_path / "killed"
    online.run(compose(f"output={whole}", *recipe))

    gate = Gate(tmp_path / "gate", killed)
    command = (f"output={killed}", *recipe, *gate.overrides)
    first = launch(*command)
    first.wait_until(gate.holds)
    os.kill(first.process.pid, signal.SIGKILL)
    first.wait_for_no_process(but=("ray::DashboardAgent", "ray::RuntimeEnvAgent"))
    gate.open()
    resumed = launch(*command)
    assert resumed.wait() == 0, resumed.log.read_text()
    assert "continuing from" in resumed.log.read_text()
    resumed.wait_for_no_process()

    assert prompts_of(killed) == prompts_of(whole)
    assert figures(killed) == figures(whole)
    rows = [row for row in metrics(whole) if "reward" in row]
    assert len(rows) == LEAST_STEPS
    assert rows[-1]["curriculum/skipped"] > rows[0]["curriculum/skipped"], "the curriculum skipped none"
    assert all(row["plus/prompts"] == 3 and row["minus/prompts"] == 1 for row in rows)
    for name in ("train/plus/kl", "train/minus/kl", "train/plus/entropy", "plus/repetition", "repetition"):
        assert all(row[name] >= 0 for row in rows), name
    texts = [row for row in metrics(whole) if "validation/perplexity/prose" in row]
    assert [row["step"] for row in texts] == [-1, LEAST_STEPS - 1]
    assert texts[0]["validation/perplexity/prose"] != texts[1]["validation/perplexity/prose"]

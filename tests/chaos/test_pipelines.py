"""A pipeline that is killed or interrupted in the middle, and continued by the same command."""

import json
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.chaos.conftest import Run, metrics
from tests.chaos.test_offline import SMALL

NUM_STEPS = 400
DATA = """
def write(folder, source):
    (folder / "sums.jsonl").write_text(open(source).read())
"""


@pytest.fixture
def pipeline(models: dict[str, Path], sums: Path, tmp_path: Path) -> Iterator[Callable[[], Run]]:
    """Starts a pipeline of data and two trainings, the second from the model of the first."""
    (tmp_path / "data.py").write_text(DATA)
    small = ["data=supervised", *SMALL]
    stages = {
        "second": {
            "kind": "sft",
            "overrides": [*small, f"train.num_steps={NUM_STEPS}", "checkpoint.every=5", "placement.policy=1"],
            "needs": {"model": "first", "data.path": "data/sums.jsonl"},
        },
        "first": {
            "kind": "sft",
            "overrides": [*small, f"model={models['tied']}", "train.num_steps=2", "placement.policy=1"],
            "needs": {"data.path": "data/sums.jsonl"},
        },
        "data": {"kind": "function", "overrides": [f"function={tmp_path}/data.py:write", f"+arguments.source={sums}"]},
    }
    declared = tmp_path / "conf" / "pipeline" / "mine.yaml"
    declared.parent.mkdir(parents=True)
    declared.write_text(f"# @package _global_\n{json.dumps({'stages': stages})}\n")
    runs: list[Run] = []

    def start() -> Run:
        command = ["--config-dir", str(tmp_path / "conf"), "pipeline=mine", f"output={tmp_path / 'pipeline'}"]
        runs.append(Run(command, tmp_path / f"run-{len(runs)}.log", "launch/pipeline.py"))
        return runs[-1]

    yield start
    for run in runs:
        for pid in [*run.descendants(), *([run.process.pid] if run.process.poll() is None else [])]:
            os.kill(pid, signal.SIGKILL)


def states(folder: Path) -> list[str]:
    stages = json.loads((folder / "pipeline.json").read_text())["stages"]
    return [stages[name]["state"] for name in ("data", "first", "second")]


def test_a_killed_and_then_interrupted_pipeline_makes_nothing_twice(
    pipeline: Callable[[], Run], tmp_path: Path
) -> None:
    folder = tmp_path / "pipeline"
    killed = pipeline()
    killed.wait_until(lambda: len(metrics(folder / "second")) >= 8)
    os.kill(killed.process.pid, signal.SIGKILL)
    killed.wait_for_no_process(but=("ray::DashboardAgent", "ray::RuntimeEnvAgent"))
    assert states(folder) == ["made", "made", "running"]
    done = [folder / "first" / "metrics.jsonl", folder / "data" / "files" / "manifest.json"]
    written = [file.stat().st_mtime_ns for file in done]
    # The continuation drops the rows after its checkpoint: more of them than now are its own.
    rows = len(metrics(folder / "second"))

    interrupted = pipeline()
    interrupted.wait_until(lambda: len(metrics(folder / "second")) >= rows + 3)
    interrupted.process.send_signal(signal.SIGINT)
    assert interrupted.wait() == 130, interrupted.log.read_text()
    interrupted.wait_for_no_process()
    assert "is saved, the same command continues from it" in interrupted.log.read_text()
    assert states(folder) == ["kept", "kept", "stopped"]
    steps = [row["step"] for row in metrics(folder / "second")]
    assert steps == list(range(-1, len(steps) - 1))
    assert [file.stat().st_mtime_ns for file in done] == written
    assert not (folder / "replaced").exists()
    assert "Traceback" not in interrupted.log.read_text()

"""Offline runs that are disturbed: ranks killed, stopped by Ctrl-C; they go on to the same numbers."""

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file

from rlhf.config import SFTRunConfig
from rlhf.config import compose as compose_config
from tests.chaos.conftest import REPOSITORY, Run, metrics

NUM_STEPS, SAVED_EVERY = 60, 20
KILLED_AT = 25
"""Rows of metrics: after the first checkpoint, and long before the last step, however slowly this process looks."""
SMALL = ["train.rows_per_step=8", f"train.num_steps={NUM_STEPS}", "backend.precision=fp32",
         "backend.max_tokens_per_microbatch=128", "optimizer.lr=1e-3", "optimizer.schedule=cosine",
         "data.response_key=answer", "placement.policy=2", "held_out.fraction=0.2",
         "log.tensorboard=false"]  # fmt: skip
MEASURED = ("seconds/step", "tokens_per_second", "memory_bytes/policy")


@pytest.fixture
def sft(launch: Callable[..., Run]) -> Callable[..., Run]:
    def start(output: Path, *overrides: str) -> Run:
        return launch(f"output={output}", *overrides, recipe=SMALL, script="launch/sft.py")

    return start


def numbers(folder: Path) -> list[dict[str, Any]]:
    return [{name: value for name, value in row.items() if name not in MEASURED} for row in metrics(folder)]


def ranks_of(run: Run) -> list[int]:
    return sorted(pid for pid, command in run.descendants().items() if "ray::RayTrainWorker" in command)


def test_a_killed_rank_is_started_anew_and_the_run_ends_with_the_same_numbers(
    sft: Callable[..., Run], cluster: None, models: dict[str, Path], sums: Path, tmp_path: Path
) -> None:
    from rlhf.stages.offline import sft as stage

    saved = f"checkpoint.every={SAVED_EVERY}"
    undisturbed = [*SMALL, f"model={models['tied']}", f"data.path={sums}", f"output={tmp_path / 'undisturbed'}", saved]
    stage.run(compose_config(REPOSITORY / "conf", "sft", undisturbed, SFTRunConfig))
    run = sft(tmp_path / "killed", saved)
    run.wait_until(lambda: len(metrics(tmp_path / "killed")) >= KILLED_AT)
    os.kill(ranks_of(run)[-1], signal.SIGKILL)
    assert len(metrics(tmp_path / "killed")) < NUM_STEPS, "the run was over before the kill"
    assert run.wait() == 0, run.log.read_text()
    run.wait_for_no_process()
    assert numbers(tmp_path / "killed") == numbers(tmp_path / "undisturbed")
    one, other = (load_file(tmp_path / name / "model" / "model.safetensors") for name in ("killed", "undisturbed"))
    assert one.keys() == other.keys()
    assert all((one[name] == other[name]).all() for name in one)


def test_ctrl_c_saves_and_the_same_command_continues(sft: Callable[..., Run], tmp_path: Path) -> None:
    command = ("train.num_steps=400", "placement.policy=1")
    run = sft(tmp_path / "run", *command)
    run.wait_until(lambda: len(metrics(tmp_path / "run")) >= 5)
    run.process.send_signal(signal.SIGINT)
    assert run.wait() == 130, run.log.read_text()
    run.wait_for_no_process()
    (saved,) = (tmp_path / "run" / "checkpoints").iterdir()
    assert f"stopped: {saved} is saved, the same command continues from it" in run.log.read_text()
    done = json.loads((saved / "manifest.json").read_text())["step"]
    again = sft(tmp_path / "run", *command)
    again.wait_until(lambda: len(metrics(tmp_path / "run")) >= done + 3)
    again.process.send_signal(signal.SIGTERM)
    assert again.wait() == 143, again.log.read_text()
    again.wait_for_no_process()
    steps = [row["step"] for row in metrics(tmp_path / "run")]
    assert steps == list(range(-1, len(steps) - 1))


def test_a_run_whose_ranks_always_die_ends_in_one_sentence(sft: Callable[..., Run], tmp_path: Path) -> None:
    run = sft(tmp_path / "run", "train.num_steps=100000", "train.max_restarts=0", "placement.policy=1")
    run.wait_until(lambda: len(metrics(tmp_path / "run")) >= 3)
    os.kill(ranks_of(run)[0], signal.SIGKILL)
    assert run.wait() == 4, run.log.read_text()
    run.wait_for_no_process()
    (error,) = run.errors()
    assert "learner rank" in error
    assert "train.max_restarts" in error
    assert "Traceback" not in run.log.read_text().partition("error:")[2]

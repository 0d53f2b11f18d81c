"""A search as Ray jobs that is killed in the middle. Its members train nothing, so that many fit into a test."""

import json
import os
import signal
from pathlib import Path
from typing import Any

from tests.chaos.conftest import REPOSITORY, Run
from tests.chaos.head import Head

MEMBER = """
import json, pathlib, sys, time
values = dict(word.split("=", 1) for word in sys.argv[1:])
folder = pathlib.Path(values["output"].strip("'"))
folder.mkdir(parents=True)
for step in range(40):
    row = {"step": step, "reward": -abs(float(values["algorithm.clip_low"]) - 0.2) * step, "seconds/step": 0.0}
    with (folder / "metrics.jsonl").open("a") as file:
        file.write(json.dumps(row) + chr(10))
    time.sleep(0.1)
(folder / "model").mkdir()
manifest = {"step": 40, "config": {"train": {"num_steps": 40}}, "metrics": {}}
(folder / "model" / "manifest.json").write_text(json.dumps(manifest))
"""
DRIVER = """
import pathlib, sys
from rlhf.command_line import command_line
from rlhf.sweeps.jobs import run
command_line(lambda: run(sys.argv[1:], pathlib.Path(__file__).parent))
"""


def members(folder: Path) -> list[dict[str, Any]]:
    path = folder / "sweep.json"
    return json.loads(path.read_text())["members"] if path.is_file() else []


def test_a_killed_search_continues_and_stops_hopeless_jobs(head: Head, tmp_path: Path) -> None:
    repository = tmp_path / "repository"
    (repository / "launch").mkdir(parents=True)
    (repository / "conf").symlink_to(REPOSITORY / "conf")
    (repository / "launch" / "ppo.py").write_text(MEMBER)
    (repository / "sweep.py").write_text(DRIVER)
    folder = tmp_path / "search"
    command = [
        "sweep.search=true", "sweep.num_trials=7", "sweep.pruning=halving", "sweep.pruning_start=5", "sweep.poll_s=0.2",
        "model=m", "data.path=p", "train.num_steps=40", f"output={folder}", "algorithm.clip_low=interval(0.05,0.9)",
    ]  # fmt: skip

    def start(name: str) -> Run:
        return Run(command, tmp_path / name, str(repository / "sweep.py"), head.environment)

    killed = start("killed.log")
    started = {"running", "pruned", "done"}
    killed.wait_until(lambda: len(members(folder)) >= 3 and members(folder)[2]["state"] in started)
    os.kill(killed.process.pid, signal.SIGKILL)
    killed.process.wait()
    before = [member["submission_id"] for member in members(folder)[:3]]

    resumed = start("resumed.log")
    assert resumed.wait() == 0, resumed.log.read_text()
    after = members(folder)
    assert [member["submission_id"] for member in after[:3]] == before
    assert len({member["name"] for member in after}) == 7
    assert {member["state"] for member in after} == {"done", "pruned"}
    for member in after:
        steps = len((folder / member["name"] / "metrics.jsonl").read_text().splitlines())
        assert (steps < 40) == (member["state"] == "pruned")
        state = {"done": "SUCCEEDED", "pruned": "STOPPED"}[member["state"]]
        assert head.state_of(member["submission_id"]) == state
    best = min(after, key=lambda member: abs(float(member["swept"]["algorithm.clip_low"]) - 0.2))
    assert f"Best: algorithm.clip_low={best['swept']['algorithm.clip_low']}, with reward" in resumed.log.read_text()

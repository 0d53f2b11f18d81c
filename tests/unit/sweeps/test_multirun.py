"""`launch/ppo.py --multirun` and the planning of `launch/sweep.py`, up to where a runtime would start."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from rlhf.sweeps.plan import Plan
from rlhf.types import InputError

ROOT = Path(__file__).parents[3]
RUN = ("model=m", "data.path=p", "output=o")


@pytest.fixture(autouse=True)
def no_cluster(monkeypatch):
    """No cluster is named. Without a token Ray's client does not even call, so there is one of none."""
    for name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("RAY_AUTH_TOKEN", "of-no-cluster")


def test_every_member_is_tried_and_the_exit_code_says_that_some_failed(run_script, tmp_path):
    finished = run_script(
        "launch/ppo.py",
        "-m",
        "output=sweep",
        "model=nowhere",
        "data.path=p",
        "algorithm.clip_low=0.1,7.0",
        "seed=1,2",
    )
    assert finished.returncode == 4, finished.stderr
    errors = finished.stderr.splitlines()
    assert all(line.startswith("error: ") for line in errors)
    assert "4 of 4 members failed" in errors[-1]
    members = json.loads((tmp_path / "sweep" / "sweep.json").read_text())["members"]
    assert [member["name"] for member in members] == [
        f"algorithm.clip_low-{clip}__seed-{seed}" for clip in ("0.1", "7.0") for seed in (1, 2)
    ]
    assert [member["state"] for member in members] == ["failed"] * 4
    assert all("model 'nowhere'" in member["error"] for member in members[:2])
    assert all("algorithm.clip_low=7.0" in member["error"] for member in members[2:])
    assert [path.name for path in tmp_path.iterdir()] == ["sweep"]


@pytest.mark.parametrize(
    ("script", "overrides", "sentence"),
    [
        ("ppo.py", ["-m", "output=o", "seed=1"], "nothing is swept"),
        ("ppo.py", ["-m", "seed=1,2"], "output: it must be set, as in output=..."),
        ("ppo.py", ["-m", "output=a,b"], "output: it cannot be swept"),
        ("ppo.py", ["-m", "output=o", "seed=1,2", "train.foo=1"], "train.foo: there is no such key"),
        ("ppo.py", ["output=o", "seed=1,2"], "seed=1,2: several values are a sweep, which takes --multirun"),
        ("sweep.py", ["output=o", "seed=1"], "nothing is swept"),
        ("sweep.py", ["model=m", "data.path=p", "seed=1,2"], "output: it must be set, as in output=..."),
        ("sweep.py", ["model=m", "data.path=p", "output=o", "seed=1,x"], "seed=x: "),
        ("sweep.py", [*RUN, "sweep.search=true", "seed=1,2", "seed=int(interval(1,9))"], "seed: it is given 2 times"),
        ("sweep.py", [*RUN, "sweep.search=true", "seed=1,2"], "sweep.num_trials=20: the space has 2 members"),
        (
            "sweep.py",
            [*RUN, "optimizer.lr=interval(1,2)"],
            "optimizer.lr=interval(1,2): an interval has too many values",
        ),
        ("sweep.py", [*RUN, "sweep.seed=1", "seed=1,2"], "sweep.seed: a grid has no use for it"),
        (
            "sweep.py",
            [*RUN, "sweep.search=true", "algorithm.clip_low=interval(0.1,7)"],
            "algorithm.clip_low=7.0: must lie between 0 and 1",
        ),
        ("sweep.py", [*RUN, "sweep.search=true", "optimizer.lr=interval(1e-6,1e-5)"], "sweep.address: it must be set"),
        ("sweep.py", ["sweep.foo=1"], "sweep.foo: there is no such key; known are address, max_concurrent, poll_s"),
        ("sweep.py", ["model=m", "data.path=p", "output=o", "seed=1,2"], "sweep.address: it must be set"),
        (
            "sweep.py",
            ["sweep.address=http://127.0.0.1:9", "model=m", "data.path=p", "output=o", "seed=1,2"],
            "sweep.address=http://127.0.0.1:9: no cluster answers there",
        ),
    ],
)
def test_a_mistake_is_one_line_before_any_member_starts(run_script, tmp_path, script, overrides, sentence):
    finished = run_script(f"launch/{script}", *overrides)
    assert finished.returncode == 2, finished.stderr
    (line,) = finished.stderr.splitlines()
    assert line.startswith(f"error: {sentence}")
    assert list(tmp_path.iterdir()) == []


def test_a_machine_without_a_token_is_told_so(tmp_path):
    """In a process of its own: Ray reads the token once."""
    arguments = ["sweep.address=http://127.0.0.1:9", "model=m", "data.path=p", "output=o", "seed=1,2"]
    environment = {**os.environ, "RAY_AUTH_TOKEN": "", "RAY_AUTH_TOKEN_PATH": str(tmp_path / "token")}
    finished = subprocess.run([sys.executable, ROOT / "launch/sweep.py", *arguments], cwd=tmp_path, env=environment,
                              capture_output=True, text=True, timeout=600, check=False)  # fmt: skip
    assert finished.returncode == 2, finished.stderr
    assert "sweep.address=http://127.0.0.1:9: there is no token here, or the cluster refuses it;" in finished.stderr


def test_jobs_are_given_absolute_paths_and_a_folder_each(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    given = ["model=m", 'data.path="p\'s.jsonl"', "output=all", "reward.functions=[exact,my.py:f]", "seed=1,2",
             "environment=my.py:play", "data.reader=my.py:read", "weight_sync.transport=my.py:Carrier",
             "sampler.engine=my.py:Engine"]  # fmt: skip
    plan = Plan.of(ROOT / "conf", given)
    members, configs = plan.listed(), plan.configs
    assert [member.name for member in members] == ["seed-1", "seed-2"]
    for member in members:
        config = configs[member.name]
        assert config.model == str(tmp_path / "m")
        assert config.data.path == str(tmp_path / "p's.jsonl")
        assert config.output == str(tmp_path / "all" / member.name)
        assert config.reward.functions == ["exact", f"{tmp_path}/my.py:f"]
        own = (config.environment, config.data.reader, config.weight_sync.transport, config.sampler.engine)
        assert own == tuple(f"{tmp_path}/my.py:{name}" for name in ("play", "read", "Carrier", "Engine"))
        assert f"seed-{config.seed}" == member.name


def test_jobs_are_given_absolute_paths_of_prompt_sets_and_ensembles(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    sets = "+data.sets={plus: {path: p.jsonl, weight: 2, reader: 'my.py:read'}, minus: {path: /m.jsonl}}"
    models = ["model=m", "reward.model=r", "reward.ensemble=[s,/t]"]
    plan = Plan.of(ROOT / "conf", [*models, "output=all", "reward.functions=[exact]", "seed=1,2", sets])
    plan.listed()
    for config in plan.configs.values():
        assert {name: each.path for name, each in config.data.sets.items()} == {
            "plus": str(tmp_path / "p.jsonl"), "minus": "/m.jsonl",
        }  # fmt: skip
        assert config.data.sets["plus"].reader == f"{tmp_path}/my.py:read"
        assert config.data.sets["minus"].reader is None
        assert config.reward.ensemble == [str(tmp_path / "s"), "/t"]


@pytest.mark.parametrize(("given", "expected"), [("runs", "/runs"), ("http://host:5000", None)])
def test_a_folder_of_mlflow_is_given_as_an_absolute_path(tmp_path, monkeypatch, given, expected):
    pytest.importorskip("mlflow", reason="mlflow-skinny is not installed: it is optional")
    monkeypatch.chdir(tmp_path)
    plan = Plan.of(ROOT / "conf", [*RUN, "seed=1,2", f"log.mlflow={given}"])
    plan.listed()
    assert plan.sample.log.mlflow == (f"{tmp_path}{expected}" if expected else given)


def test_a_member_that_is_wrong_stops_a_sweep_of_jobs_before_it_starts():
    with pytest.raises(InputError, match=r"algorithm\.clip_low=7\.0: must lie between 0 and 1"):
        Plan.of(ROOT / "conf", ["model=m", "data.path=p", "output=o", "algorithm.clip_low=0.1,7.0"]).listed()

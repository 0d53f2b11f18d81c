"""Algorithms from outside the repository: `algorithm=/path/file.py:Config` and `algorithm=package.module:Config`."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import ray

from rlhf.actors.placement import let_user_files_travel
from rlhf.algorithms.grpo import GRPOConfig
from rlhf.config import OnlineConfig, PreferenceRunConfig, as_plain, as_read, compose
from rlhf.pipelines.config import PipelineConfig, StageConfig
from rlhf.pipelines.plan import steps_of
from rlhf.stages.inputs import paths_of
from rlhf.sweeps.jobs import plan_members
from rlhf.train.run_folder import open_run_folder
from rlhf.types import InputError, Sampling

CONF = Path(__file__).parents[3] / "conf"
NEEDED = ["model=m", "output=o", "data.path=p"]
HEAD = """
from dataclasses import dataclass
from typing import Callable
from rlhf.algorithms.base import AlgorithmConfig
from rlhf.algorithms.policy_gradient import PolicyGradient
from rlhf.algorithms.preference import PairLoss, PreferenceConfig, log_ratios
from rlhf.ops.preference import dpo_loss
"""
MINE = f"""{HEAD}
@dataclass(kw_only=True, slots=True)
class MineConfig(AlgorithmConfig):
    min_group_size = 1

    factor: float = 2.0
    \"\"\"Factor of the rewards.\"\"\"

    def build(self, sampling):
        return Mine(self, sampling)

class Mine(PolicyGradient):
    def group_advantages(self, group):
        return [self.config.factor * reward for reward in self.rewards(group)]

@dataclass(kw_only=True, slots=True)
class PairsConfig(PreferenceConfig):
    margin: float = 0.5
    \"\"\"Margin.\"\"\"

    def build(self):
        return PairLoss(self, log_ratios, self.objective)

    def objective(self, chosen, rejected):
        return dpo_loss(chosen - self.margin, rejected, beta=self.beta, label_smoothing=0.0)

@dataclass(kw_only=True, slots=True)
class Untyped(AlgorithmConfig):
    factor = 2.0

@dataclass(kw_only=True, slots=True)
class OtherDefault(AlgorithmConfig):
    group_size = 4

@dataclass(kw_only=True, slots=True)
class Unknown(AlgorithmConfig):
    function: Callable = print

@dataclass(kw_only=True, slots=True)
class WrongValue(AlgorithmConfig):
    factor: float = None

class Undecorated(AlgorithmConfig):
    factor: float = 2.0

class Outer:
    @dataclass(kw_only=True, slots=True)
    class Inner(AlgorithmConfig):
        pass

Alias = Outer.Inner
value = 3
"""


@pytest.fixture
def mine(tmp_path, monkeypatch) -> Path:
    file = tmp_path / "mine.py"
    file.write_text(MINE)
    monkeypatch.chdir(tmp_path)
    return file


def online(*overrides: str) -> OnlineConfig:
    return compose(CONF, "online", [*NEEDED, *overrides], OnlineConfig)


def test_a_class_is_named_by_its_file_or_its_module(mine, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.syspath_prepend(tmp_path)
    spaced = tmp_path / "a folder" / "mine 2.py"
    spaced.parent.mkdir()
    spaced.write_text(MINE)
    for place in (mine, "mine.py", "./mine.py", "~/mine.py", spaced, "mine"):
        config = online(f"algorithm={place}:MineConfig", "algorithm.factor=3")
        assert (type(config.algorithm).__name__, config.algorithm.factor, config.algorithm.clip_low) == (
            "MineConfig", 3.0, 0.2
        )  # fmt: skip


def test_the_run_records_the_class_with_its_absolute_path(mine):
    config = online("algorithm=./mine.py:MineConfig")
    assert as_plain(config)["algorithm"]["class"] == f"{mine}:MineConfig"
    assert as_plain(online("algorithm=rlhf.algorithms.grpo:GRPOConfig")) == as_plain(online("algorithm=grpo"))
    assert "class" not in as_plain(online("algorithm=grpo"))["algorithm"]


def test_a_run_is_continued_by_the_same_class_alone(mine, tmp_path):
    other = mine.with_name("other.py")
    other.write_text(MINE)
    output = str(tmp_path / "run")
    for _ in range(2):
        with open_run_folder(output, as_plain(online("algorithm=mine.py:MineConfig"))):
            pass
    with (
        pytest.raises(InputError, match=rf"algorithm.class was {mine}:MineConfig and is {other}:MineConfig"),
        open_run_folder(output, as_plain(online("algorithm=other.py:MineConfig"))),
    ):
        pass


@pytest.mark.parametrize(
    ("spec", "sentence"),
    [
        ("mine.py", "algorithm has 'mine.py': give package.module:Config or /path/file.py:Config"),
        ("gone.py:A", "algorithm has 'gone.py:A', but there is no file {folder}/gone.py: correct the path"),
        ("mine.py:Nine", "algorithm has 'mine.py:Nine', but Nine does not exist in mine.py: name one of its configs"),
        (
            "broken.py:A",
            "algorithm has 'broken.py:A', whose import raises ZeroDivisionError: division by zero: correct",
        ),
        ("not.there:A", "algorithm has 'not.there:A', whose import raises ModuleNotFoundError: No module named 'not':"),
        ("mine.py:value", "algorithm has 'mine.py:value', which is no subclass of AlgorithmConfig or Preference"),
        (
            "mine.py:Mine",
            "algorithm has 'mine.py:Mine', which is no subclass of AlgorithmConfig or PreferenceConfig or",
        ),
        ("mine.py:Undecorated", "algorithm has 'mine.py:Undecorated', which is no dataclass: write @dataclass(kw_only"),
        ("mine.py:Untyped", "algorithm has 'mine.py:Untyped', where factor has no type, so that it is no key: write "),
        ("mine.py:OtherDefault", "algorithm has 'mine.py:OtherDefault', where group_size has no type, so that it is"),
        ("mine.py:Unknown", "algorithm has 'mine.py:Unknown', where function cannot be a key (Unexpected type annotat"),
        ("mine.py:WrongValue", "algorithm has 'mine.py:WrongValue', where factor cannot be a key (Incompatible value "),
        (
            "mine.py:Alias",
            "algorithm has 'mine.py:Alias', which is Outer.Inner: define it at the top of its module, wh",
        ),
        ("made.py:Made", "algorithm has 'made.py:Made', whose source cannot be read (could not find class definition)"),
        (
            "mine.py:PairsConfig",
            "algorithm=mine.py:PairsConfig: it does not work with this command; known are cispo, d",
        ),
    ],
)
def test_a_class_that_is_wrong_is_refused_in_one_sentence(run_script, mine, tmp_path, spec, sentence):
    mine.with_name("broken.py").write_text("1 / 0\n")
    made = "make_dataclass('Made', [], bases=(AlgorithmConfig,), kw_only=True)"
    mine.with_name("made.py").write_text(f"{HEAD}\nfrom dataclasses import make_dataclass\nMade = {made}\n")
    finished = run_script("launch/ppo.py", "experiment=quickstart", f"algorithm={spec}", "dry_run=true")
    (line,) = finished.stderr.splitlines()
    assert finished.returncode == 2
    assert line.startswith(f"error: {sentence.format(folder=tmp_path)}")


def test_its_keys_are_checked_and_shown_like_ours(run_script, mine):
    finished = run_script("launch/ppo.py", "algorithm=mine.py:MineConfig", "algorithm.facter=1", *NEEDED)
    assert finished.stderr == "error: algorithm.facter: there is no such key; did you mean algorithm.factor?\n"
    page = run_script("launch/ppo.py", "algorithm=mine.py:MineConfig", "--help", "factor").stdout
    assert "  algorithm.factor=2.0  (float)\n      Factor of the rewards.\n" in page


def test_a_recipe_names_it(run_script, mine):
    recipe = mine.parent / "conf" / "experiment" / "mine.yaml"
    recipe.parent.mkdir(parents=True)
    recipe.write_text(
        f"# @package _global_\ndefaults: [quickstart, override /algorithm: {mine}:MineConfig]\n"
        "algorithm: {factor: 7.0}\n"
    )
    words = ["experiment=mine", "--config-dir", str(recipe.parents[1])]
    shown = run_script("launch/ppo.py", *words, "--cfg", "job").stdout
    assert "  clip_high: 0.28\n" in shown  # the quickstart's
    assert "  factor: 7.0\n" in shown
    listed = run_script("launch/ppo.py", *words[1:], "--help", "experiment").stdout
    assert "  experiment=mine\n" in listed


def test_a_sweep_has_it_as_a_value_and_gives_jobs_its_absolute_path(mine):
    given = [*NEEDED, "algorithm=grpo,mine.py:MineConfig"]
    members, configs = plan_members(CONF, given)
    assert [type(configs[member.name].algorithm).__name__ for member in members] == ["GRPOConfig", "MineConfig"]
    assert f"algorithm='{mine}:MineConfig'" in members[1].overrides
    assert not any(word.startswith("algorithm=") and "mine" in word for word in members[0].overrides)


def test_a_pipeline_makes_a_stage_anew_when_the_file_is_another(mine, tmp_path):
    for name in ("m", "p"):
        (tmp_path / name).write_text("x")
    words = ["model=m", "data.path=p", "reward.functions=[exact]", "algorithm=mine.py:MineConfig"]
    stages = PipelineConfig(output=str(tmp_path / "out"), stages={"rl": StageConfig(kind="online", overrides=words)})

    def made() -> str:
        (step,) = steps_of(stages, CONF)
        return step.with_inputs().fingerprint

    assert paths_of(as_read(online("algorithm=mine.py:MineConfig")))["algorithm.class"] == str(mine)
    before = made()
    assert made() == before
    mine.write_text(MINE + "\n# Another.\n")
    assert made() != before


def test_offline_methods_are_taken_likewise(mine):
    words = [*NEEDED, "algorithm=mine.py:PairsConfig", "algorithm.margin=0.25"]
    config = compose(CONF, "preference", words, PreferenceRunConfig)
    assert (config.algorithm.margin, config.algorithm.reads_reference) == (0.25, False)


def test_it_works_in_a_process_that_has_not_got_the_file(mine, tmp_path):
    algorithm = online("algorithm=mine.py:MineConfig", "algorithm.kl_coef=0.5").algorithm.build(
        Sampling(temperature=1.0, max_tokens=4)
    )
    pairs = compose(CONF, "preference", [*NEEDED, "algorithm=mine.py:PairsConfig"], PreferenceRunConfig)
    let_user_files_travel()
    (tmp_path / "sent").write_bytes(ray.cloudpickle.dumps((algorithm, algorithm.loss, pairs.algorithm.build())))
    mine.unlink()
    program = """
import json, pickle, sys
import numpy as np
import torch
from rlhf.ops.microbatch import MicroBatch
algorithm, loss, pairs = pickle.load(open("sent", "rb"))
batch = MicroBatch.from_rows([np.arange(3, dtype=np.int32)], [np.array([False, True, True])], [4.0], {}, packed=True)
objective = pairs.objective(torch.tensor([1.0]), torch.tensor([0.5]))
print(json.dumps([algorithm.assign_credit(batch).advantages.tolist(), algorithm.config.factor, loss.kl_coef,
                  objective.item(), "mine" in sys.modules]))
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    # The objective is -log sigmoid(0).
    assert json.loads(done.stdout) == [[[0.0, 4.0, 4.0]], 2.0, 0.5, pytest.approx(0.693147, abs=1e-6), False]


def test_a_class_of_the_repository_is_itself():
    assert type(online("algorithm=rlhf.algorithms.grpo:GRPOConfig").algorithm) is GRPOConfig

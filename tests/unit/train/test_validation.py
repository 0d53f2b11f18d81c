"""When the policy is measured, which model is kept, when the training ends, and that a continued run does the same."""

import asyncio
import json
import math
import signal
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from rlhf.algorithms.grpo import GRPOConfig
from rlhf.ops.intervals import Estimate
from rlhf.train.artifact import open_artifact
from rlhf.train.best import BestModel, Direction
from rlhf.train.checkpoint import Checkpointer, OnlineCheckpointConfig
from rlhf.train.run_folder import RunFolder
from rlhf.train.stop import Stop
from rlhf.train.tracking import METRICS, SAMPLES, MetricsLog, read_rows
from rlhf.train.validation import Measurement, Validation, ValidationConfig
from rlhf.types import Sampling, Stopped
from tests.unit.train.fakes import make_report
from tests.unit.train.test_checkpoint import SavedFiles, Stream

REWARDS = [0.1, 0.2, 0.5, math.nan, 0.4, 0.45, 0.9]
"""What is measured after 0, 1, 2, ... steps."""


@dataclass
class Policy:
    """Has a reward for each number of steps it has taken."""

    rewards: Sequence[float] = tuple(REWARDS)
    num_steps: int = 0
    measured: list[int] = field(default_factory=list)
    hangs: bool = False
    perplexities: Sequence[float] = ()
    """Those of a held-out text, likewise."""

    async def measure(self) -> Measurement:
        if self.hangs:
            await asyncio.sleep(3600)
        self.measured.append(self.num_steps)
        reward = self.rewards[self.num_steps]
        success = Estimate(mean=reward, low=0.0, high=1.0)
        figures = {"success": reward, "success_low": 0.0, "success_high": 1.0, "reward": reward}
        texts = {"perplexity/wiki": self.perplexities[self.num_steps]} if self.perplexities else {}
        samples = [("1+1=", f"after {self.num_steps}")]
        return Measurement(success=success, figures=figures, samples=samples, texts=texts)


@dataclass
class Run:
    """The callbacks of a run, as `rlhf.stages.online.run.train` puts them together."""

    root: Path
    policy: Policy
    validation_keys: dict[str, Any] = field(default_factory=dict)
    checkpoint_keys: dict[str, Any] = field(default_factory=dict)
    next_step: int = 0
    said: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        keep = OnlineCheckpointConfig(**{"keep_best": "validation/reward", **self.checkpoint_keys})
        self.root.mkdir(exist_ok=True)
        self.folder, self.stop = RunFolder(self.root), Stop()
        self.checkpointer = Checkpointer(
            config=keep, folder=self.folder, learners={"policy": SavedFiles()},
            algorithm=GRPOConfig().build(Sampling(temperature=1.0, max_tokens=8)), stream=Stream(),
            write_tokenizer=lambda folder: None, manifest={"config": {}}, probe=[1, 2],
        )  # fmt: skip
        self.folder.drop_bests_after(self.next_step)
        best = BestModel(figure=keep.keep_best or "", direction=keep.best_is, folder=self.folder,
                         save=self.checkpointer.save_best)  # fmt: skip
        self.log = MetricsLog(self.root, self.next_step)
        self.validation = Validation(
            config=ValidationConfig(**{"every": 1, "fraction": 0.1, **self.validation_keys}),
            measure=self.policy.measure, folder=self.folder, log=self.log, stop=self.stop,
            tell=self.said.append, best=best if keep.keep_best else None,
        )  # fmt: skip

    async def fit(self, num_steps: int) -> int:
        """Train up to a number of steps, as the loop does. Return how many were taken."""
        done = self.policy.num_steps = self.next_step
        ended = await self.validation.begin(done)
        while not ended and done < num_steps:
            report = make_report(done)
            done = self.policy.num_steps = done + 1
            callbacks = (self.log, self.checkpointer, self.validation)
            ended = any([await callback.on_step(report) for callback in callbacks])
        return done

    def best_steps(self) -> list[int]:
        return [open_artifact(folder).manifest["step"] for folder in self.folder.bests()]


def validations(root: Path) -> list[int]:
    return [row["step"] for row in read_rows(root / METRICS) if "validation/success" in row]


async def test_it_measures_before_training_at_intervals_and_at_the_end(tmp_path):
    run = Run(tmp_path, Policy(), {"every": 2}, {"keep_best": None})
    assert await run.fit(5) == 5
    after = await run.validation.after(5)
    assert run.policy.measured == [0, 2, 4, 5]
    assert validations(tmp_path) == [-1, 1, 3, 4]
    assert after.success.mean == REWARDS[5]
    assert await run.validation.after(5) is after, "a model is measured once"
    assert json.loads((tmp_path / "success_before.json").read_text())["rate"] == REWARDS[0]
    completions = [(row["step"], row["completion"]) for row in read_rows(tmp_path / SAMPLES)]
    assert completions == [(-1, "after 0"), (1, "after 2"), (3, "after 4"), (4, "after 5")]
    assert [row["step"] for row in run.log.history] == [-1, 0, 1, 1, 2, 3, 3, 4, 4]
    assert all(row["validation/seconds"] >= 0 for row in run.log.history if "validation/success" in row)
    assert not run.folder.bests()


async def test_without_held_out_prompts_success_is_measured_and_nothing_is_logged(tmp_path):
    run = Run(tmp_path, Policy(), {"every": None, "fraction": 0.0}, {"keep_best": None})
    await run.fit(2)
    assert (await run.validation.after(2)).success.mean == REWARDS[2]
    assert run.policy.measured == [0, 2]
    assert validations(tmp_path) == []
    assert not (tmp_path / SAMPLES).exists()


@pytest.mark.parametrize(("direction", "best"), [("highest", 6), ("lowest", 1)])
async def test_the_best_model_is_kept_whatever_is_newest(tmp_path, direction, best):
    run = Run(tmp_path, Policy(), {}, {"best_is": Direction(direction), "every": 1, "keep": 1})
    await run.fit(6)
    assert run.best_steps() == [best]
    manifest = open_artifact(run.folder.bests()[0]).manifest
    assert manifest["metrics"]["validation/reward"] == REWARDS[best]
    assert manifest["best"] == {"figure": "validation/reward", "is": direction}
    assert [path.name for path in run.folder.checkpoints()] == ["step-000006"]


async def test_the_final_model_is_a_copy_of_the_best_one(tmp_path):
    run = Run(tmp_path, Policy())
    await run.fit(4)
    (best,) = run.folder.bests()
    model = open_artifact(await run.checkpointer.save_final(4, {"success_after": 0.5}, best))
    assert (model.manifest["step"], model.manifest["run_steps"]) == (2, 4)
    assert model.manifest["metrics"]["success_after"] == 0.5
    assert model.manifest["files"] == open_artifact(best).manifest["files"]


async def test_patience_ends_the_training_after_validations_without_a_better_model(tmp_path):
    run = Run(tmp_path, Policy(), {"patience": 3})
    assert await run.fit(6) == 5
    assert run.said[-1] == (
        "validation/reward was best after 2 steps, and not better in 3 validations (validation.patience): "
        "the training ends after 5 steps"
    )
    assert run.best_steps() == [2]
    again = Run(tmp_path, Policy(), {"patience": 3}, next_step=5)
    assert await again.fit(6) == 5, "a run that was killed before it saved its model is still at its end"
    longer = Run(tmp_path, Policy(), {"patience": 4}, next_step=5)
    assert await longer.fit(6) == 6


async def test_patience_counts_validations_without_a_finite_figure(tmp_path):
    run = Run(tmp_path, Policy([math.nan] * 9), {"patience": 2})
    assert await run.fit(8) == 2
    assert run.best_steps() == []


@pytest.mark.parametrize("killed_after", [1, 2, 3, 4])
@pytest.mark.parametrize("every", [1, 2, 3])
async def test_a_killed_run_keeps_and_ends_as_an_undisturbed_one(tmp_path, killed_after, every):
    whole = Run(tmp_path / "whole", Policy(), {"patience": 3}, {"every": every})
    assert await whole.fit(6) == 5
    killed = Run(tmp_path / "killed", Policy(), {"patience": 3}, {"every": every})
    await killed.fit(killed_after)
    next_step = killed_after // every * every
    # What comes after the checkpoint is another run's: its figures and models count no more.
    other = Run(killed.root, Policy([0.99] * 9), {"patience": 3}, {"every": None}, next_step=killed_after)
    await other.fit(killed_after + 1)
    resumed = Run(killed.root, Policy(), {"patience": 3}, {"every": every}, next_step=next_step)
    assert await resumed.fit(6) == 5
    assert resumed.best_steps()[0] == whole.best_steps()[0] == 2
    assert validations(killed.root) == validations(whole.root)


async def test_a_stop_during_a_validation_loses_no_step_and_measures_later(tmp_path):
    run = Run(tmp_path, Policy())
    await run.fit(2)
    run.next_step, run.policy.hangs = 2, True
    asyncio.get_running_loop().call_later(0.05, run.stop.ask, signal.SIGTERM)
    with pytest.raises(Stopped):
        await run.fit(3)
    await run.checkpointer.save_unsaved()
    assert [path.name for path in run.folder.checkpoints()] == ["step-000003"]
    assert validations(tmp_path) == [-1, 0, 1]
    resumed = Run(tmp_path, Policy(), next_step=3)
    await resumed.fit(4)
    assert resumed.policy.measured == [3, 4]
    assert validations(tmp_path) == [-1, 0, 1, 2, 3]


async def test_text_is_measured_with_the_prompts_and_chooses_the_best_model(tmp_path):
    policy = Policy(perplexities=(7.0, 8.0, 6.5, 9.0))
    keys = {"keep_best": "validation/perplexity/wiki", "best_is": Direction.lowest}
    run = Run(tmp_path, policy, {"patience": 1, "texts": {"wiki": "wiki.txt"}}, keys)
    assert await run.fit(5) == 3, "patience is over"
    rows = [row for row in run.log.history if "validation/perplexity/wiki" in row]
    assert [(row["step"], row["validation/perplexity/wiki"]) for row in rows] == [(-1, 7.0), (0, 8.0), (1, 6.5), (2, 9)]
    assert all("validation/success" in row for row in rows)
    assert run.best_steps() == [2]
    assert run.said[0] == "validation after 0 steps: success 0.1 (0 to 1), reward 0.1, perplexity of wiki 7"


async def test_without_held_out_prompts_the_text_alone_is_logged(tmp_path):
    keys = {"every": None, "fraction": 0.0, "texts": {"wiki": "wiki.txt"}}
    run = Run(tmp_path, Policy(perplexities=(7.0, 8.0, 6.5)), keys, {"keep_best": None})
    await run.fit(2)
    await run.validation.after(2)
    rows = [row for row in run.log.history if "validation/seconds" in row]
    assert [row | {"validation/seconds": 0} for row in rows] == [
        {"step": -1, "validation/perplexity/wiki": 7.0, "validation/seconds": 0},
        {"step": 1, "validation/perplexity/wiki": 6.5, "validation/seconds": 0},
    ]
    assert run.said == [
        "validation after 0 steps: perplexity of wiki 7",
        "validation after 2 steps: perplexity of wiki 6.5",
    ]
    continued = Run(tmp_path, Policy(perplexities=(7.0, 8.0, 6.5)), keys, {"keep_best": None}, next_step=2)
    await continued.fit(2)
    await continued.validation.after(2)
    assert [row["step"] for row in continued.log.history if "validation/seconds" in row] == [-1, 1]

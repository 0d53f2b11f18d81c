"""A real step has everything that a run exports, and a validation measures the policy that it keeps."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from rlhf.actors.metrics import METRICS
from rlhf.config import OnlineConfig
from tests.e2e.conftest import PPO
from tests.e2e.test_one_loop import run_system


def test_every_exported_metric_has_a_figure(
    roles: Any, compose: Callable[..., OnlineConfig], run_async: Callable[..., Any]
) -> None:
    recorder, _, _ = run_async(run_system(compose(*PPO, "train.num_steps=2"), roles))
    figures = recorder.reports[-1].figures
    found = {metric.name: {tags.get(metric.tag or ""): v for tags, v in metric.values(figures)} for metric in METRICS}
    assert not found.pop("rlhf_failures_total"), "nothing failed"
    assert all(found.values()), {name for name, values in found.items() if not values}
    # The session's roles have a clock of their own.
    assert found["rlhf_phase_seconds"].keys() == {"rollout", "weight_sync", "weight_probe"}
    assert found["rlhf_busy_ratio"].keys() == found["rlhf_memory_bytes"].keys() == {
        "policy", "reference", "critic", "sampler",
    }  # fmt: skip
    assert all(0 < share <= 1 for share in found["rlhf_busy_ratio"].values())
    # Each of these processes has torch loaded, and none the machine's whole memory.
    assert all(1e8 < held < 1e11 for held in found["rlhf_memory_bytes"].values())


HELD_OUT = [
    "validation.fraction=0.3",
    "validation.every=1",
    "validation.samples_per_prompt=2",
    "validation.pass_at=[2]",
    "validation.greedy=true",
    "checkpoint.keep_best=validation/completion_tokens",
]


def test_validations_keep_the_model_that_they_measured_and_change_nothing_of_the_training(
    roles: Any, beginning: Path, compose: Callable[..., OnlineConfig], run_async: Callable[..., Any], tmp_path: Path
) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    from rlhf.train.artifact import open_artifact
    from rlhf.train.run_folder import RunFolder
    from rlhf.train.tracking import METRICS, SAMPLES, read_rows

    config = compose(*HELD_OUT, "train.num_steps=2")
    watched, job, _ = run_async(run_system(config, roles, tmp_path))
    held_out = {prompt.id for prompt in job.held_out.prompts}
    assert not held_out & {group.prompt.id for report in watched.reports for group in report.groups}
    rows = [row for row in read_rows(tmp_path / METRICS) if "validation/success" in row]
    assert [row["step"] for row in rows] == [-1, 0, 1]
    for row in rows:
        assert 0 <= row["validation/greedy/reward"] <= 1
        assert row["validation/success_low"] <= row["validation/success"] <= row["validation/pass@2"] <= 1
        assert 0 < row["validation/completion_tokens"] <= 8
    assert len(read_rows(tmp_path / SAMPLES)) == 3 * config.validation.num_shown
    lengths = {row["step"] + 1: row["validation/completion_tokens"] for row in rows[1:]}
    best = open_artifact(RunFolder(tmp_path).bests()[0])
    assert best.manifest["step"] == max(lengths, key=lambda num_steps: lengths[num_steps])

    for name, role in roles.learners.items():
        run_async(role.load(beginning / name))
    same_steps = compose(*HELD_OUT, f"train.num_steps={best.manifest['step']}")
    unwatched, _, weights = run_async(run_system(same_steps, roles))
    for ours, theirs in zip(watched.rollouts, unwatched.rollouts, strict=False):
        assert [r.token_ids.tolist() for g in ours for r in g] == [r.token_ids.tolist() for g in theirs for r in g]
    model = AutoModelForCausalLM.from_pretrained(best.folder, dtype=torch.float32)
    for name, parameter in model.named_parameters():
        np.testing.assert_allclose(weights[name], parameter.detach().numpy(), atol=5e-5, err_msg=name)

"""A real step has everything that a run exports."""

from collections.abc import Callable
from typing import Any

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

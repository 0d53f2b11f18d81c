"""Metrics that a run exports through Ray: `<name>` here is `ray_<name>` on every node's metrics endpoint."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from ray.util.metrics import Counter, Gauge

RUN = "run"
"""Tag of every metric."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """One metric: a gauge with the last step's value or, with `_total` in its name, a counter."""

    name: str
    figure: str
    """Name of the exported metric of the step. With a tag, the metrics `<figure>/<value of the tag>`."""
    unit: str
    description: str
    tag: str | None = None

    @property
    def tags(self) -> tuple[str, ...]:
        return (RUN, self.tag) if self.tag else (RUN,)

    def values(self, figures: Mapping[str, float]) -> Iterator[tuple[dict[str, str], float]]:
        """Yield the finite values of this metric in `figures`, each with its tags."""
        for name, value in figures.items():
            parent, _, last = name.rpartition("/")
            if not math.isfinite(value):
                continue
            if self.tag is None and name == self.figure:
                yield {}, value
            elif self.tag is not None and parent == self.figure and name not in UNTAGGED:
                yield {self.tag: last}, value


METRICS = (
    Metric(
        name="rlhf_step_seconds",
        figure="seconds/step",
        unit="seconds",
        description="A training step, from waiting for rollouts to the engines holding the new weights",
    ),
    Metric(
        name="rlhf_phase_seconds",
        figure="seconds",
        tag="phase",
        unit="seconds",
        description="A phase of the step; phases of several roles overlap",
    ),
    Metric(
        name="rlhf_tokens_per_second",
        figure="tokens_per_second",
        unit="tokens per second",
        description="Tokens of the step, prompts included, over its time",
    ),
    Metric(name="rlhf_reward", figure="reward", unit="", description="Mean reward of the step's rollouts"),
    Metric(name="rlhf_loss", figure="train/loss", unit="", description="Loss of what is trained"),
    Metric(
        name="rlhf_gradient_norm", figure="train/gradient_norm", unit="", description="Gradient norm before clipping"
    ),
    Metric(name="rlhf_kl_nats", figure="train/kl", unit="nats", description="KL to the reference, per token"),
    Metric(
        name="rlhf_kl_coefficient",
        figure="train/kl_coef",
        unit="",
        description="Weight of the KL to the reference, which an adaptive controller moves",
    ),
    Metric(
        name="rlhf_critic_explained_ratio",
        figure="train/critic/explained_variance",
        unit="ratio",
        description="Share of the returns' variance that the critic explains; of PPO",
    ),
    Metric(
        name="rlhf_entropy_nats", figure="train/entropy", unit="nats", description="Entropy of the policy, per token"
    ),
    Metric(
        name="rlhf_completion_tokens",
        figure="completion_tokens",
        unit="tokens",
        description="Mean length of the step's completions",
    ),
    Metric(
        name="rlhf_staleness_steps",
        figure="staleness_max",
        unit="steps",
        description="Training steps by which the weights that sampled the oldest token lag behind the learning ones",
    ),
    Metric(
        name="rlhf_failures_total",
        figure="failures",
        tag="kind",
        unit="",
        description="Rollouts that have no reward since the run was started or continued",
    ),
    Metric(
        name="rlhf_busy_ratio",
        figure="busy",
        tag="role",
        unit="ratio",
        description="Share of the step in which the role's workers were busy on their accelerators",
    ),
    Metric(
        name="rlhf_memory_bytes",
        figure="memory_bytes",
        tag="role",
        unit="bytes",
        description="Peak memory of one accelerator of the role; RAM of a worker without a GPU",
    ),
)
UNTAGGED = {metric.figure for metric in METRICS if metric.tag is None}


class RayMetrics:
    """Exporter of a run's metrics from its driver."""

    def __init__(self, run: str) -> None:
        self.tags = {RUN: run}
        self.instruments = {metric: instrument(metric) for metric in METRICS}

    def write(self, figures: Mapping[str, float]) -> None:
        for metric, record in self.instruments.items():
            for tags, value in metric.values(figures):
                record(value, {**self.tags, **tags})


def instrument(metric: Metric) -> Callable[[float, dict[str, str]], None]:
    """Return the function that records a value of the metric under tags."""
    if metric.name.endswith("_total"):
        return Counter(metric.name, metric.description, metric.tags).inc
    return Gauge(metric.name, metric.description, metric.tags).set

"""What Prometheus reads from a node of the cluster while a run writes its figures."""

import re
import time
import urllib.request

from rlhf.actors.metrics import METRICS, RayMetrics

DEADLINE_S = 300
FIGURES = {
    "step": 3,
    "reward": 0.5,
    "tokens_per_second": 1234.0,
    "completion_tokens": 7.5,
    "staleness_max": 2.0,
    "train/kl": 0.25,
    "train/kl_coef": 0.125,
    "train/critic/explained_variance": 0.5,
    "train/entropy": 1.5,
    "train/loss": -0.125,
    "train/gradient_norm": float("nan"),
    "train/lr": 1e-3,
    "seconds/step": 4.0,
    "seconds/rollout": 3.0,
    "seconds/update": 1.0,
    "busy/policy": 0.25,
    "busy/sampler": 0.75,
    "memory_bytes/policy": 1e9,
    "failures": 2.0,
    "failures/reward_error": 2.0,
}


def scrape(run: str) -> dict[tuple[str, str], float]:
    """Values of the run on this node's endpoint, by metric and by what its other tag says."""
    import ray

    (node,) = ray.nodes()
    url = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
    with urllib.request.urlopen(url, timeout=60) as answer:  # no token: Prometheus has none
        lines = answer.read().decode().splitlines()
    found = {}
    for line in lines:
        if match := re.fullmatch(r"(ray_rlhf_\w+)\{(.*)\} (\S+)", line):
            tags = dict(re.findall(r'(\w+)="(.*?)"', match[2]))
            if tags.get("run") == run:
                own = next((tags[tag] for tag in ("phase", "role", "kind") if tag in tags), "")
                found[match[1], own] = float(match[3])
    return found


def test_every_metric_is_on_the_endpoint(cluster: None) -> None:
    metrics = RayMetrics("outputs/mine")
    metrics.write(FIGURES)
    metrics.write({**FIGURES, "reward": 0.75, "train/gradient_norm": 8.0})
    end = time.monotonic() + DEADLINE_S
    while len(found := scrape("outputs/mine")) < 17 or found["ray_rlhf_reward", ""] != 0.75:
        assert time.monotonic() < end, found
        time.sleep(1)
    assert found == {
        ("ray_rlhf_reward", ""): 0.75,
        ("ray_rlhf_tokens_per_second", ""): 1234.0,
        ("ray_rlhf_completion_tokens", ""): 7.5,
        ("ray_rlhf_staleness_steps", ""): 2.0,
        ("ray_rlhf_kl_nats", ""): 0.25,
        ("ray_rlhf_kl_coefficient", ""): 0.125,
        ("ray_rlhf_critic_explained_ratio", ""): 0.5,
        ("ray_rlhf_entropy_nats", ""): 1.5,
        ("ray_rlhf_loss", ""): -0.125,
        ("ray_rlhf_gradient_norm", ""): 8.0,
        ("ray_rlhf_step_seconds", ""): 4.0,
        ("ray_rlhf_phase_seconds", "rollout"): 3.0,
        ("ray_rlhf_phase_seconds", "update"): 1.0,
        ("ray_rlhf_busy_ratio", "policy"): 0.25,
        ("ray_rlhf_busy_ratio", "sampler"): 0.75,
        ("ray_rlhf_memory_bytes", "policy"): 1e9,
        ("ray_rlhf_failures_total", "reward_error"): 4.0,
    }
    assert {name for name, _ in found} == {f"ray_{metric.name}" for metric in METRICS}

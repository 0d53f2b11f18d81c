"""Kills of learners and the reference in a PPO run: seconds until the next complete step, prompts, and parameters.

    python -m benchmarks.learner_failover FOLDER

Two runs on a tiny model, one undisturbed. In the other, policy rank 1, critic and reference are killed with SIGKILL at
three moments each, a kill every other step; it takes a checkpoint after every step.
"""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from pathlib import Path
from statistics import median
from typing import Any

from safetensors.numpy import load_file

from rlhf.actors.placement import cluster
from rlhf.config import OnlineConfig, compose
from rlhf.models.tiny import build_tiny_model
from rlhf.stages.console import show_table
from rlhf.stages.online.job import prepare
from rlhf.stages.online.run import run
from rlhf.train.tracking import read_rows
from tests.chaos.kills import beside, kill, process_id, wait_until

MOMENTS = {
    "engines sample": ("sampler-0", "collect"),
    "critic learns": ("critic-0", "update"),
    "policy learns": ("policy-0", "update"),
    "reference computes": ("reference-0", "compute_columns"),
    "weight sync": ("policy-0", "weights"),
    "checkpoint": ("policy-0", "save"),
}
"""Worker and method whose call is the moment."""
KILLS = {
    "policy-1": ("engines sample", "policy learns", "weight sync", "checkpoint"),
    "critic-0": ("engines sample", "critic learns", "checkpoint"),
    "reference-0": ("engines sample", "reference computes", "weight sync"),
}
NUM_STEPS = 2 * sum(map(len, KILLS.values())) + 2
ALPHABET = "0123456789+="


def overrides(folder: Path) -> list[str]:
    model, rows, reward = folder / "tiny", folder / "sums.jsonl", folder / "rewards.py"
    build_tiny_model(model, alphabet=ALPHABET)
    sums = [{"prompt": f"{a}+{b}=", "answer": str(a + b)} for a in range(5) for b in range(5)]
    rows.write_text("".join(json.dumps(row) + "\n" for row in sums), encoding="utf-8")
    reward.write_text("def digits(prompt, rollout):\n    return sum(map(str.isdigit, rollout.text)) / 8\n")
    return [
        f"model={model}", f"data.path={rows}", f"reward.functions=[{reward}:digits]", "algorithm=ppo",
        "sampling.max_tokens=8", "stream.prompts_per_step=4", "algorithm.group_size=4", "algorithm.kl_coef=0.05",
        f"train.num_steps={NUM_STEPS}", "train.num_minibatches=2", "backend.precision=fp32",
        "backend.max_tokens_per_microbatch=64", "optimizer.lr=1e-3", "sampler.context_tokens=64",
        "sampler.kv_cache_bytes=33554432", "sampler.accelerator_memory_fraction=0.1", "sampler.eager=true",
        "weight_sync.bucket_bytes=50000", "placement.policy=2", "checkpoint.every=1", "validation.num_prompts=4",
        "log.tensorboard=false", "log.groups_per_step=4", f"failover.learner_restarts={NUM_STEPS}",
    ]  # fmt: skip


def current(worker: str, kills: Counter[str]) -> int:
    """Process id of the worker that has the place now."""
    role = worker.partition("-")[0]
    return process_id(worker if not kills[role] else f"{worker}-start-{kills[role] + 1}")


def restarts(row: dict[str, Any]) -> int:
    return sum(int(value) for name, value in row.items() if name.startswith("restarts/"))


def kill_all(root: Path, results: list[tuple[str, str, float]]) -> None:
    done: Counter[str] = Counter()
    wait_until(lambda: len(read_rows(root / "metrics.jsonl")) >= 2)
    for victim, moments in KILLS.items():
        for moment in moments:
            worker, method = MOMENTS[moment]
            kill(current(victim, done), method, of=current(worker, done))
            start = time.monotonic()
            done[victim.partition("-")[0]] += 1
            wait_until(lambda: any(restarts(row) == done.total() for row in read_rows(root / "metrics.jsonl")))
            results.append((victim, moment, time.monotonic() - start))
            print(f"{victim} while {moment}: {results[-1][2]:.1f} s", flush=True)


def main(folder: Path) -> None:
    folder.mkdir(parents=True)
    words, conf = overrides(folder), Path(__file__).parents[1] / "conf"
    configs = {name: compose(conf, "online", [*words, f"output={folder / name}"], OnlineConfig) for name in NAMES}
    results: list[tuple[str, str, float]] = []
    with cluster(prepare(configs["whole"]).plan):
        with beside(lambda: kill_all(folder / "killed", results)):
            run(configs["killed"])
        run(configs["whole"])
    rows = {name: read_rows(folder / name / "metrics.jsonl") for name in NAMES}
    step = median(row["seconds/step"] for row in rows["whole"])
    columns = ["killed", "while", "s to the next complete step"]
    table = [[victim, moment, f"{seconds:.1f}"] for victim, moment, seconds in results]
    show_table(f"Restarts; an undisturbed step takes {step:.1f} s", columns, table)
    whole, killed = (Counter(row["episode"] for row in read_rows(folder / n / "rollouts.jsonl")) for n in NAMES)
    print(f"episodes lost: {(whole - killed).total()}, learnt twice: {(killed - whole).total()}")
    for kind in ("model", "critic"):
        one, other = (load_file(folder / name / kind / "model.safetensors") for name in NAMES)
        print(f"{kind}: parameters equal: {all((one[name] == other[name]).all() for name in one)}")


NAMES = ("whole", "killed")

if __name__ == "__main__":
    main(Path(sys.argv[1]))

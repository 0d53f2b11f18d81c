"""Kills of every worker of a PPO run: seconds lost, episodes, and parameters.

    python -m benchmarks.failover FOLDER [--engines 1] [--only sampler-0 ...]

Two runs on a tiny model, one undisturbed. In the other, engine, reward worker, a rank of the policy, critic and
reference are killed with SIGKILL, at three moments each or more; it takes a checkpoint after every step. With one
engine only that engine is killed: its prompts wait for it.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from statistics import median
from typing import Any

import ray
from safetensors.numpy import load_file

from rlhf.actors.placement import cluster
from rlhf.config import OnlineConfig, compose
from rlhf.models.tiny import build_tiny_model, fit_tiny_reward_model
from rlhf.stages.console import show_table
from rlhf.stages.online.job import prepare
from rlhf.stages.online.run import run
from rlhf.train.tracking import read_rows
from tests.chaos.kills import beside, kill, process_id, wait_until
from tests.chaos.test_failover import trained_prompts

MOMENTS = {
    "engines sample": ("sampler-0", "collect"),
    "reward scores": ("reward-0", "score"),
    "critic learns": ("critic-0", "update"),
    "policy learns": ("policy-0", "update"),
    "reference computes": ("reference-0", "compute_columns"),
    "weight sync": ("policy-0", "weights"),
    "engine loads": ("sampler-0", "load"),
    "checkpoint": ("policy-0", "save"),
}
"""Worker and method whose call is the moment."""
ENGINE = ("engines sample", "policy learns", "engine loads")
KILLS = {
    "sampler-0": ENGINE,
    "reward-0": ("reward scores", "policy learns", "weight sync"),
    "policy-1": ("engines sample", "policy learns", "weight sync", "checkpoint"),
    "critic-0": ("engines sample", "critic learns", "checkpoint"),
    "reference-0": ("engines sample", "reference computes", "weight sync"),
}
STEPS_PER_KILL = 8
"""Number of steps that one engine makes while the other starts again, with some to spare: most kills wait for none."""
ALPHABET = "0123456789+="
NAMES = ("whole", "killed")


def overrides(folder: Path, num_steps: int, num_engines: int) -> list[str]:
    model, judge, rows = folder / "tiny", folder / "judge", folder / "sums.jsonl"
    build_tiny_model(model, alphabet=ALPHABET)
    fit_tiny_reward_model(judge, {str(n): n / 9 for n in range(10)}, alphabet=ALPHABET, num_steps=3)
    sums = [{"prompt": f"{a}+{b}=", "answer": str(a + b)} for a in range(5) for b in range(5)]
    rows.write_text("".join(json.dumps(row) + "\n" for row in sums), encoding="utf-8")
    return [
        f"model={model}", f"data.path={rows}", "reward.functions=[]", f"reward.model={judge}", "algorithm=ppo",
        "sampling.max_tokens=8", "stream.prompts_per_step=4", "algorithm.group_size=4", "algorithm.kl_coef=0.05",
        f"train.num_steps={num_steps}", "train.num_minibatches=2", "backend.precision=fp32",
        "backend.max_tokens_per_microbatch=64", "optimizer.lr=1e-3", "sampler.context_tokens=64",
        "sampler.kv_cache_bytes=33554432", "sampler.accelerator_memory_fraction=0.1", "sampler.eager=true",
        f"sampler.num_engines={num_engines}", "weight_sync.bucket_bytes=50000", "placement.policy=2",
        "checkpoint.every=1", "validation.num_prompts=4", "log.tensorboard=false", "log.groups_per_step=4",
        f"failover.learner_restarts={num_steps}", f"failover.rollout_restarts={num_steps}",
    ]  # fmt: skip


def newest(worker: str) -> int:
    """Return the process of the worker that has the place now, such as `policy-1`."""
    names = {each["name"] for each in ray.util.list_named_actors(all_namespaces=True)}
    return process_id(max((name for name in names if name == worker or name.startswith(f"{worker}-start-")), key=start))


def start(name: str) -> int:
    return int(name.rpartition("-start-")[2]) if "-start-" in name else 1


def restarts(row: dict[str, Any]) -> int:
    return sum(int(value) for name, value in row.items() if name.startswith("restarts/"))


def last_step(root: Path) -> int:
    return max(row["step"] for row in read_rows(root / "metrics.jsonl"))


def has_restarted(root: Path, before: int) -> bool:
    return any(restarts(row) > before for row in read_rows(root / "metrics.jsonl"))


def wait_for_steps(root: Path, step: int, num_restarts: int) -> None:
    """Wait until a step is complete after the restart with this number, from 0; a learner's death takes the run back to
    a checkpoint, whose steps come again."""
    wait_until(lambda: has_restarted(root, num_restarts) and last_step(root) >= step)


def kill_all(root: Path, kills: dict[str, tuple[str, ...]], results: list[tuple[str, str, float]]) -> None:
    wait_until(lambda: len(read_rows(root / "metrics.jsonl")) >= 2)
    for victim, moments in kills.items():
        for moment in moments:
            worker, method = MOMENTS[moment]
            kill(newest(victim), method, of=newest(worker))
            begin, complete = time.monotonic(), last_step(root)
            wait_for_steps(root, complete + 2, len(results))
            results.append((victim, moment, time.monotonic() - begin))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--engines", type=int, default=2)
    parser.add_argument("--only", nargs="*", default=list(KILLS), choices=list(KILLS))
    given = parser.parse_args()
    kills = {name: KILLS[name] for name in (given.only if given.engines > 1 else ["sampler-0"])}
    folder = given.folder.resolve()
    folder.mkdir(parents=True)
    words = overrides(folder, STEPS_PER_KILL * sum(map(len, kills.values())), given.engines)
    conf = Path(__file__).parents[1] / "conf"
    configs = {name: compose(conf, "online", [*words, f"output={folder / name}"], OnlineConfig) for name in NAMES}
    results: list[tuple[str, str, float]] = []
    with cluster(prepare(configs["whole"]).plan):
        with beside(lambda: kill_all(folder / "killed", kills, results)):
            run(configs["killed"])
        run(configs["whole"])
    show(folder, results)


def show(folder: Path, results: list[tuple[str, str, float]]) -> None:
    step = median(row["seconds/step"] for row in read_rows(folder / "whole" / "metrics.jsonl"))
    table = [[victim, moment, f"{seconds - 2 * step:.1f}"] for victim, moment, seconds in results]
    columns = ["killed", "while", "seconds lost"]
    show_table(f"Restarts; an undisturbed step takes {step:.1f} s", columns, table)
    whole, killed = (trained_prompts(folder / name) for name in NAMES)
    print(f"rollouts lost: {(whole - killed).total()}, learnt twice: {(killed - whole).total()}")
    for kind in ("model", "critic"):
        one, other = (load_file(folder / name / kind / "model.safetensors") for name in NAMES)
        print(f"{kind}: parameters equal: {all((one[name] == other[name]).all() for name in one)}")


if __name__ == "__main__":
    main()

"""Seconds until a run is whole again after a worker was killed, by worker and by moment.

`python benchmarks/failover.py [ROW ...]`: tiny models on this machine, one run per row, each killed once in its second
training step, and compared with an unfaulted run: parameters bit for bit, prompts by the ids of each step's rollouts.
"""

import functools
import json
import os
import re
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from safetensors.numpy import load_file

from rlhf.actors.roles import LearningRole
from rlhf.actors.sampler_pool import SamplerPool
from rlhf.config import OnlineConfig, compose
from rlhf.models.tiny import build_tiny_model, fit_tiny_reward_model
from rlhf.stages.console import CONSOLE
from rlhf.stages.online import run as online

ROOT = Path(__file__).parent.parent
ALPHABET = "0123456789+="
NUM_STEPS, PROMPTS = 4, 4
SETTINGS = [
    "algorithm=grpo", "reward.functions=[]", "sampling.max_tokens=8", f"stream.prompts_per_step={PROMPTS}",
    "algorithm.group_size=4", "algorithm.kl_coef=0.0", f"train.num_steps={NUM_STEPS}", "train.num_minibatches=2",
    "backend.precision=fp32", "backend.max_tokens_per_microbatch=64", "optimizer.lr=1e-3",
    "sampler.context_tokens=64", "sampler.kv_cache_bytes=33554432", "sampler.accelerator_memory_fraction=0.1",
    "sampler.eager=true", "weight_sync.bucket_bytes=50000", "placement.policy=1", "validation.num_prompts=1",
    "log.tensorboard=false", f"log.groups_per_step={PROMPTS}",
]  # fmt: skip
ENGINE, REWARD = "ray::SamplerWorker", "ray::RewardModelWorker"
MOMENTS = {
    "sampling": (SamplerPool, "collect", PROMPTS + 3),
    "learning": (LearningRole, "update", 2),
    "weight sync": (SamplerPool, "load", None),
}
"""A method of the driver, and the number of the call at whose start the worker is killed: of the second step. None: a
third of the buckets into the step's sync."""


@dataclass(frozen=True)
class Row:
    victim: str
    moment: str
    overrides: tuple[str, ...]


ROWS = {
    f"{name}, {moment}": Row(victim, moment, overrides)
    for name, victim, overrides in (
        ("engine of two", ENGINE, ("sampler.num_engines=2",)),
        ("engine of two, gloo", ENGINE, ("sampler.num_engines=2", "weight_sync.transport=gloo")),
        ("only engine", ENGINE, ()),
        ("reward worker", REWARD, ()),
    )
    for moment in MOMENTS
}


def kill(name: str) -> None:
    """Kill the first of this process's workers of that name."""
    children = psutil.Process().children(recursive=True)
    os.kill(min(child.pid for child in children if name in " ".join(child.cmdline())), signal.SIGKILL)


class Killing:
    """A method that kills a worker once, at the start of a call."""

    def __init__(self, row: Row) -> None:
        self.row, self.calls = row, 0
        self.owner, self.name, number = MOMENTS[row.moment]
        self.method: Callable[..., Any] = getattr(self.owner, self.name)
        self.number = number

    def __enter__(self) -> None:
        @functools.wraps(self.method)
        async def method(role: Any, *arguments: Any) -> Any:
            self.calls += 1
            if self.calls == (self.number or num_buckets + num_buckets // 3):
                kill(self.row.victim)
            return await self.method(role, *arguments)

        setattr(self.owner, self.name, method)

    def __exit__(self, *_: object) -> None:
        setattr(self.owner, self.name, self.method)


num_buckets = 9
"""Buckets of one sync of the tiny model."""


def train(root: Path, name: str, overrides: tuple[str, ...]) -> str:
    """Train into a folder of that name; return what the run printed."""
    places = (f"output={root / name}", f"model={root / 'model'}", f"data.path={root / 'rows.jsonl'}",
              f"reward.model={root / 'judge'}")  # fmt: skip
    run = compose(ROOT / "conf", "online", [*SETTINGS, *places, *overrides], OnlineConfig)
    with CONSOLE.capture() as captured:
        online.run(run)
    return captured.get()


def prompts(folder: Path) -> Counter[tuple[int, str]]:
    lines = map(json.loads, (folder / "rollouts.jsonl").read_text().splitlines())
    return Counter((line["step"], line["prompt_id"]) for line in lines)


def compare(root: Path, name: str) -> tuple[int, bool]:
    """Return the prompts that were lost or trained on twice, and whether the parameters equal the unfaulted run's."""
    expected, found = (load_file(root / each / "model" / "model.safetensors") for each in ("unfaulted", name))
    before, after = prompts(root / "unfaulted"), prompts(root / name)
    wrong = ((before - after) + (after - before)).total()
    return wrong, all((expected[key] == found[key]).all() for key in expected)


def main(names: list[str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        build_tiny_model(root / "model", alphabet=ALPHABET, hidden_size=64)
        fit_tiny_reward_model(root / "judge", {str(n): n / 9 for n in range(10)}, alphabet=ALPHABET, hidden_size=64,
                              num_steps=3)  # fmt: skip
        rows = [{"prompt": f"{a}+{b}=", "answer": str(a + b)} for a in range(5) for b in range(5)]
        (root / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        train(root, "unfaulted", ())
        write("| worker, moment | down (s) | restarts | rollouts lost or repeated | parameters equal |")
        write("| --- | --- | --- | --- | --- |")
        for number, name in enumerate(names or ROWS):
            with Killing(ROWS[name]):
                printed = train(root, str(number), ROWS[name].overrides)
            last = json.loads((root / str(number) / "metrics.jsonl").read_text().splitlines()[-1])
            restarts = int(sum(value for key, value in last.items() if key.startswith("restarts/")))
            seconds = re.findall(r"samples again after ([\d.]+) s", " ".join(printed.split()))
            wrong, equal = compare(root, str(number))
            write(f"| {name} | {', '.join(seconds) or '-'} | {restarts} | {wrong} | {'yes' if equal else 'no'} |")


def write(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1:])

"""CPU time of the driver per step, as completions grow: tokens go from engines to learners without passing through it.

    python benchmarks/driver_cost.py

One set of workers on a tiny model; lengths alternate, and no completion may end early. A micro-batch holds the same
number of rollouts at every length, so the number of packs is the same. The driver's other threads are Ray's: their idle
CPU time is measured too and subtracted.
"""

from __future__ import annotations

import asyncio
import json
import tempfile
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from statistics import median

from rlhf.actors.placement import cluster, reserved
from rlhf.config import OnlineConfig, compose
from rlhf.data.order import PromptOrder
from rlhf.models.tiny import build_tiny_model
from rlhf.stages.console import show_table
from rlhf.stages.online.job import Job, prepare
from rlhf.stages.online.roles import Roles, lay_out, start_roles
from rlhf.stages.online.run import assemble
from rlhf.train.clock import Clock
from rlhf.train.report import StepReport
from rlhf.train.stop import Stop
from rlhf.train.stream import RolloutStream

LENGTHS = (32, 128, 512)
ROUNDS, STEPS, IDLE_S = 3, 4, 5.0
PROMPTS, GROUP_SIZE, ROLLOUTS_PER_PACK = 8, 8, 8
CONTEXT = max(LENGTHS) + 64
ALPHABET = "0123456789+=abcdefghijklmnopqrstuvwxyz "


@dataclass(frozen=True, slots=True)
class Reading:
    """Seconds so far: wall time, CPU time of the loop's thread, CPU time of the process."""

    wall: float
    loop: float
    process: float

    @classmethod
    def now(cls) -> Reading:
        return cls(time.perf_counter(), time.thread_time(), time.process_time())

    def __sub__(self, other: Reading) -> Reading:
        return Reading(self.wall - other.wall, self.loop - other.loop, self.process - other.process)


class Meter:
    """Cost of each step except the first, which starts before the loop does."""

    def __init__(self) -> None:
        self.readings: list[Reading] = []
        self.tokens = 0.0

    async def on_step(self, report: StepReport) -> bool:
        self.tokens = report.figures["tokens"]
        self.readings.append(Reading.now())
        return False

    @property
    def steps(self) -> list[Reading]:
        return [after - before for before, after in pairwise(self.readings)]


def make_job(folder: Path) -> Job:
    """Make a run whose policy cannot end a completion, since it has no token for that."""
    build_tiny_model(folder / "model", alphabet=ALPHABET, hidden_size=64, tied=True, context_tokens=CONTEXT)
    rows = [{"prompt": f"{a}+{b}=", "answer": str(a + b)} for a in range(10) for b in range(10)]
    (folder / "sums.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    overrides = [
        f"model={folder / 'model'}", f"data.path={folder / 'sums.jsonl'}", "output=unused", "algorithm.kl_coef=0.05",
        f"sampling.max_tokens={max(LENGTHS)}", f"stream.prompts_per_step={PROMPTS}",
        f"algorithm.group_size={GROUP_SIZE}", f"train.num_steps={STEPS}", "backend.precision=fp32",
        f"backend.max_tokens_per_microbatch={CONTEXT}", f"sampler.context_tokens={CONTEXT}",
        "sampler.kv_cache_bytes=134217728",
        "sampler.accelerator_memory_fraction=0.1", "sampler.eager=true", "placement.policy=2",
    ]  # fmt: skip
    job = prepare(compose(Path(__file__).parents[1] / "conf", "online", overrides, OnlineConfig))
    banned = (*job.distribution.banned_token_ids, *job.stop_token_ids)
    return replace(job, distribution=replace(job.distribution, banned_token_ids=banned))


async def run_steps(job: Job, roles: Roles, length: int) -> Meter:
    meter = Meter()
    longest_prompt = max(len(prompt.token_ids) for prompt in job.prompts)
    tokens = (longest_prompt + length) * ROLLOUTS_PER_PACK
    config = replace(job.config, backend=replace(job.config.backend, max_tokens_per_microbatch=tokens))
    algorithm = job.config.algorithm.build(replace(job.sampling, max_tokens=length))
    stream = RolloutStream(PromptOrder(job.prompts, job.config.seed), roles.samplers, algorithm, job.config.stream)
    changed = await lay_out(replace(job, algorithm=algorithm, config=config), roles)
    await assemble(changed, roles, stream, Clock(), 0, [meter], Stop()).fit()
    return meter


async def measure(job: Job, roles: Roles) -> tuple[Mapping[int, Sequence[Meter]], Reading]:
    """Return the meters by completion length, and the reading of an idle period."""
    await run_steps(job, roles, min(LENGTHS))  # first calls import and compile
    start = Reading.now()
    await asyncio.sleep(IDLE_S)
    idle = Reading.now() - start
    meters = defaultdict(list)
    for _ in range(ROUNDS):
        for length in LENGTHS:
            meters[length].append(await run_steps(job, roles, length))
    await roles.samplers.close()
    return meters, idle


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        job = make_job(Path(folder))
        with cluster(job.plan), reserved(job.plan, 60) as bundles, asyncio.Runner() as runner:
            roles = runner.run(start_roles(job, bundles, Clock()))
            meters, idle = runner.run(measure(job, roles))
    idle_rate = idle.process / idle.wall
    rows = []
    for length, measured in meters.items():
        steps = [step for meter in measured for step in meter.steps]
        loop = median(step.loop for step in steps)
        process = median(step.process - idle_rate * step.wall for step in steps)
        wall = median(step.wall for step in steps)
        per_rollout = process / (PROMPTS * GROUP_SIZE)
        rows.append(
            (length, f"{measured[0].tokens:.0f}", f"{1e3 * loop:.1f}", f"{1e3 * process:.1f}",
             f"{1e6 * per_rollout:.0f}", f"{wall:.2f}")
        )  # fmt: skip
    show_table(
        f"Driver CPU per step of {PROMPTS * GROUP_SIZE} rollouts, median of {ROUNDS * (STEPS - 1)} steps; idle "
        f"{1e3 * idle_rate:.0f} ms/s taken off",
        ("completion", "tokens", "loop ms", "process ms", "us per rollout", "step s"),
        rows,
    )


if __name__ == "__main__":
    main()

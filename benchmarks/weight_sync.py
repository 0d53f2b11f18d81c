"""Seconds and bytes per second of a whole weight sync by transport, against memcpy in the same run.

`python benchmarks/weight_sync.py`: a Qwen3 of 50M parameters, two ZeRO-3 ranks, one engine, all on this machine. The
transports alternate, and each figure is the median over all turns except the first.
"""

import asyncio
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from rlhf.actors.placement import cluster, reserved
from rlhf.actors.weight_sync import BucketSync
from rlhf.config import OnlineConfig, compose
from rlhf.models.tiny import build_tiny_model
from rlhf.runtimes.configs import Precision
from rlhf.runtimes.transport import Transport, WeightSyncConfig
from rlhf.stages.online.job import prepare
from rlhf.stages.online.results import probe_sequence
from rlhf.stages.online.roles import start_roles
from rlhf.train.clock import Clock

CONF = Path(__file__).parent.parent / "conf"
NUM_TURNS = 6
SETTINGS = [
    "algorithm=grpo", "experiment=quickstart", "output=unused", "placement.policy=2", "algorithm.measure_kl=false",
    "sampler.kv_cache_bytes=268435456", "sampler.context_tokens=64", "backend.precision=fp32",
]  # fmt: skip


def memcpy_rate(num_bytes: int) -> float:
    """Return the bytes per second of copying `num_bytes`, median of five."""
    source, target = np.ones(num_bytes, dtype=np.uint8), np.empty(num_bytes, dtype=np.uint8)
    seconds = []
    for _ in range(6):
        start = time.perf_counter()
        target[:] = source
        seconds.append(time.perf_counter() - start)
    return num_bytes / statistics.median(seconds[1:])


async def measure(run: OnlineConfig, transports: list[Transport]) -> dict[Transport, list[float]]:
    job, clock = prepare(run), Clock()
    with cluster(job.plan), reserved(job.plan, 60) as bundles:
        roles = await start_roles(job, bundles, clock)
        seconds: dict[Transport, list[float]] = {transport: [] for transport in transports}
        version = 0
        for turn in range(NUM_TURNS):
            for transport in transports:
                # Connects again in each turn, outside the timing: both ends hold one carrier at a time.
                config = WeightSyncConfig(bucket_bytes=64 << 20)
                sync = BucketSync(config, transport, Precision.fp32, probe_sequence(job), version, clock)
                await sync.connect(roles.policy, roles.samplers, transport)
                clock.take()
                version = await sync.push(roles.policy, roles.samplers) + 1
                if turn:
                    seconds[transport].append(clock.take()["weight_sync"])
        await roles.samplers.close()
    return seconds


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        build_tiny_model(root / "model", alphabet="0123456789+=", hidden_size=736, num_layers=6, context_tokens=64)
        rows = [{"prompt": f"{a}+1=", "answer": str(a + 1)} for a in range(10)]
        (root / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        num_bytes = sum(path.stat().st_size for path in (root / "model").glob("*.safetensors"))
        overrides = [*SETTINGS, f"model={root / 'model'}", f"data.path={root / 'rows.jsonl'}"]
        seconds = asyncio.run(
            measure(compose(CONF, "online", overrides, OnlineConfig), [Transport.object_store, Transport.gloo])
        )
    rate = memcpy_rate(num_bytes)
    sys.stdout.write(f"{num_bytes / 4e6:.1f}M parameters, {num_bytes / 1e6:.0f} MB; memcpy {rate / 1e9:.2f} GB/s\n")
    for transport, measured in seconds.items():
        median = statistics.median(measured)
        spread = f"{min(measured):.3f}-{max(measured):.3f}"
        sys.stdout.write(
            f"{transport.value}: {median:.3f} s ({spread}), {num_bytes / median / 1e9:.3f} GB/s, "
            f"{num_bytes / median / rate:.3f} of memcpy\n"
        )


if __name__ == "__main__":
    main()

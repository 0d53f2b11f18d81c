"""Bytes and seconds of a weight sync of a policy with LoRA: merged into whole weights, and the adapter alone.

`python benchmarks/adapter_sync.py`: a Qwen3 of 50M parameters with adapters of rank 16, two ZeRO-3 ranks, one engine
per form, all on this machine. Each figure is the median over all turns except the first.
"""

import asyncio
import json
import statistics
import sys
import tempfile
from pathlib import Path

from benchmarks.weight_sync import CONF, NUM_TURNS, SETTINGS
from rlhf.actors.placement import cluster, reserved
from rlhf.actors.roles import fetch
from rlhf.actors.weight_sync import BucketSync
from rlhf.config import OnlineConfig, compose
from rlhf.models.tiny import build_tiny_model
from rlhf.runtimes.configs import Precision
from rlhf.runtimes.transport import AdapterForm, Transport
from rlhf.stages.online.job import prepare
from rlhf.stages.online.results import probe_sequence
from rlhf.stages.online.roles import start_roles
from rlhf.train.clock import Clock


async def measure(config: OnlineConfig) -> tuple[int, list[float]]:
    """Return the bytes of a sync, and the seconds of each turn but the first."""
    job, clock, seconds = prepare(config), Clock(), []
    sync_config = config.weight_sync
    with cluster(job.plan), reserved(job.plan, 60) as bundles:
        roles = await start_roles(job, bundles, clock)
        sync = BucketSync(sync_config, Transport.object_store, Precision.fp32, probe_sequence(job), 0, clock)
        for _ in range(NUM_TURNS):
            clock.take()
            await sync.push(roles.policy, roles.samplers)
            seconds.append(clock.take()["weight_sync"])
        alone = sync_config.adapter is AdapterForm.alone
        buckets = roles.policy.weights(sync_config.bucket_bytes, adapter_alone=alone)
        num_bytes = sum([fetch(references)[0].num_bytes async for references in buckets])
        await roles.samplers.close()
    return num_bytes, seconds[1:]


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        build_tiny_model(root / "model", alphabet="0123456789+=", hidden_size=736, num_layers=6, context_tokens=64)
        rows = [{"prompt": f"{a}+1=", "answer": str(a + 1)} for a in range(10)]
        (root / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        overrides = [*SETTINGS, "lora.rank=16", f"model={root / 'model'}", f"data.path={root / 'rows.jsonl'}"]
        for form in AdapterForm:
            config = compose(CONF, "online", [*overrides, f"weight_sync.adapter={form}"], OnlineConfig)
            num_bytes, seconds = asyncio.run(measure(config))
            spread = f"{min(seconds):.3f}-{max(seconds):.3f}"
            sys.stdout.write(f"{form}: {num_bytes / 1e6:.1f} MB, {statistics.median(seconds):.3f} s ({spread})\n")


if __name__ == "__main__":
    main()

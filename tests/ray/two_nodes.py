"""A driver on two simulated nodes of three accelerators each; `test_two_nodes.py` runs it, one line of JSON a check."""

import asyncio
import json
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ray
from ray.cluster_utils import Cluster
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from rlhf.actors.node_checks import NodeProbe, check_nodes, check_pairs
from rlhf.actors.nodes import has_accelerators, nodes, nodes_of
from rlhf.actors.placement import reserved
from rlhf.actors.plan import RolePlan, make_plan
from rlhf.actors.preflight import PreflightConfig
from rlhf.actors.ray_train import num_ranks_at_once
from rlhf.actors.workers import Spawner
from rlhf.train.clock import Clock
from rlhf.types import RunError

NODE = {"num_cpus": 8, "num_gpus": 3, "object_store_memory": 100 << 20}
ROLES = [
    RolePlan(role="policy", num_workers=4),
    RolePlan(role="sampler", num_workers=1, accelerators_per_worker=2),
]
WIDE = [
    RolePlan(role="policy", num_workers=2),
    RolePlan(role="reference", num_workers=1),
    RolePlan(role="sampler", num_workers=1, accelerators_per_worker=3),
]


class Sleeper:
    def where(self) -> str:
        return ray.get_runtime_context().get_node_id()

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)


def tell(check: str, **found: Any) -> None:
    print(json.dumps({"check": check, **found}), flush=True)


def sentence_of(work: Callable[[], Any]) -> dict[str, Any]:
    start = time.monotonic()
    try:
        work()
    except RunError as error:
        return {"sentence": str(error), "seconds": time.monotonic() - start}
    return {"sentence": None, "seconds": time.monotonic() - start}


def preflight(folder: Path, config: PreflightConfig) -> None:
    tell("preflight", **sentence_of(lambda: check_nodes(folder, config)), left=os.listdir(folder))


def silent_node(timeout_s: float) -> None:
    """One node's process stops answering, as behind a firewall that drops what is sent there."""
    found = list(nodes().values())
    affinities = [NodeAffinitySchedulingStrategy(node.id, soft=False) for node in found]
    probes = [ray.remote(num_cpus=0)(NodeProbe).options(scheduling_strategy=each).remote() for each in affinities]
    check_pairs([node.name for node in found], probes, 300)
    pid = ray.get(probes[1].__ray_call__.remote(lambda self: os.getpid()))
    os.kill(pid, signal.SIGSTOP)
    told = sentence_of(lambda: check_pairs([node.name for node in found], probes, timeout_s))
    os.kill(pid, signal.SIGKILL)
    ray.kill(probes[0])
    tell("silent node", names=[node.name for node in found], **told)


def other_installation(cluster: Cluster, folder: Path) -> None:
    """A third node has another transformers."""
    metadata = folder.parent / "site-packages" / "transformers-4.0.0.dist-info" / "METADATA"
    metadata.parent.mkdir(parents=True)
    metadata.write_text("Metadata-Version: 2.1\nName: transformers\nVersion: 4.0.0\n")
    path = os.pathsep.join([str(metadata.parents[1]), os.environ.get("PYTHONPATH", "")])
    node = cluster.add_node(**NODE, env_vars={"PYTHONPATH": path})
    told = sentence_of(lambda: check_nodes(folder, PreflightConfig()))
    tell("other installation", **told, name=nodes()[node.node_id].name)
    cluster.remove_node(node)


def real_accelerators(cluster: Cluster) -> None:
    """A node that names the kind of its accelerators joins: the driver's own node has only pretended ones."""
    before = has_accelerators()
    node = cluster.add_node(num_cpus=1, num_gpus=1, resources={"accelerator_type:H100": 1})
    tell("real accelerators", before=before, after=has_accelerators(), num_ranks=num_ranks_at_once(),
         nodes=sorted(each.accelerated for each in nodes().values()))  # fmt: skip
    cluster.remove_node(node)


def wide_engine() -> None:
    """Small bundles, placed first, would spread over both nodes and leave neither whole for an engine of three."""
    with reserved(make_plan(WIDE), 300) as bundles:
        tell("wide engine", where={group.name: nodes_of(granted) for group, granted in bundles.items()})


def main(folder: Path) -> None:
    cluster = Cluster(initialize_head=True, head_node_args={**NODE, "include_dashboard": False})
    second = cluster.add_node(**NODE)
    ray.init(address=cluster.address, log_to_driver=False)
    preflight(folder, PreflightConfig())
    real_accelerators(cluster)
    wide_engine()
    silent_node(timeout_s=5)
    other_installation(cluster, folder)

    names = {node.id: node.name for node in nodes().values()}
    plan = make_plan(ROLES)
    with reserved(plan, 300) as bundles:
        spawn = Spawner(plan, bundles, Clock())
        roles = {role.role: spawn(role.role, Sleeper) for role in ROLES}
        where = {
            name: [names[node] for node in ray.get([actor.where.remote() for actor in workers.actors])]
            for name, workers in roles.items()
        }
        tell("spread", nodes=list(names.values()), where=where,
             planned={name: workers.nodes for name, workers in roles.items()})  # fmt: skip

        async def sleep() -> None:
            loop = asyncio.get_running_loop()
            loop.call_later(1, cluster.remove_node, second, False)
            await roles["policy"].each(lambda rank, actor: actor.sleep.remote(1000))

        told = sentence_of(lambda: asyncio.run(sleep()))
        tell("removed node", name=names[second.node_id], **told)
    ray.shutdown()
    cluster.shutdown()


if __name__ == "__main__":
    main(Path(sys.argv[1]))

"""The machines of a cluster: their resources, and the nodes of workers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import ray
from ray.util.placement_group import PlacementGroup, placement_group_table

from rlhf.ports import free_port

ACCELERATOR = "GPU"
KIND = "accelerator_type:"
"""Prefix of Ray's resource for the kind of a node's real accelerators; simulated ones have none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    id: str
    name: str
    """Address and beginning of the node's id, as in the dashboard."""
    temporary: Path
    """Ray's folder of this session."""
    num_accelerators: int
    accelerated: bool
    """True if the accelerators are real."""
    num_cpus: int


def has_accelerators() -> bool:
    """Return whether any node of the cluster has real accelerators; the driver's own may have none."""
    return names_a_kind(ray.cluster_resources())


def names_a_kind(resources: Mapping[str, float]) -> bool:
    """Return whether these resources name a kind of accelerators, which Ray does only for real ones."""
    return any(resource.startswith(KIND) for resource in resources)


def nodes() -> dict[str, Node]:
    """Return the live nodes by id."""
    return {
        node["NodeID"]: Node(
            id=node["NodeID"],
            name=f"{node['NodeManagerAddress']} ({node['NodeID'][:8]})",
            temporary=Path(node["ObjectStoreSocketName"]).parents[1],
            num_accelerators=int(node["Resources"].get(ACCELERATOR, 0)),
            accelerated=names_a_kind(node["Resources"]),
            num_cpus=int(node["Resources"].get("CPU", 0)),
        )
        for node in ray.nodes()
        if node["Alive"]
    }


def cpus_per_accelerator() -> int:
    """Return the CPUs per real accelerator of the node with the fewest; 1 in a cluster without accelerators."""
    return min((node.num_cpus // node.num_accelerators for node in nodes().values() if node.accelerated), default=1)


def nodes_of(bundles: PlacementGroup) -> list[str]:
    """Return the name of each bundle's node. The placement group must be ready."""
    known = nodes()
    placed = placement_group_table(bundles)["bundles_to_node_id"]
    return [known[placed[index]].name for index in range(bundles.bundle_count)]


def free_address() -> tuple[str, int]:
    """Return an address for connections to this process: this node and a free port."""
    return ray.util.get_node_ip_address(), free_port()
